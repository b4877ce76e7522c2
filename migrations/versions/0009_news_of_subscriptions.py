"""Finds the events about subscriptions, which belong to no wedding."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_INDEX = "ix_outgoing_events_of_no_wedding"


def upgrade() -> None:
    """Index them."""
    where = sa.text("wedding_id IS NULL")
    op.create_index(_INDEX, "outgoing_events", ["organization_id", "id"], postgresql_where=where)


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(_INDEX, table_name="outgoing_events")
