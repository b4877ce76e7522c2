"""Failovers know when their guard is missed; a proposal that was superseded leaves its epoch to the next one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEY = "uq_failovers_from_service_endpoint_epoch"
_STANDING = "ix_failovers_standing"
_COLUMNS = ["from_service", "endpoint", "epoch"]


def upgrade() -> None:
    """Add the moment, and narrow the key."""
    op.add_column("failovers", sa.Column("guard_due_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint(_KEY, "failovers", type_="unique")
    op.create_index(_KEY, "failovers", _COLUMNS, unique=True, postgresql_where=sa.text("status <> 'superseded'"))
    standing = sa.text("status NOT IN ('restored', 'superseded')")
    op.create_index(_STANDING, "failovers", ["status"], postgresql_where=standing)


def downgrade() -> None:
    """Drop it; what was superseded is forgotten, since the wider key has no room for it."""
    op.drop_index(_STANDING, table_name="failovers")
    op.drop_index(_KEY, table_name="failovers")
    op.execute("DELETE FROM failovers WHERE status = 'superseded'")
    op.create_unique_constraint(_KEY, "failovers", _COLUMNS)
    op.drop_column("failovers", "guard_due_at")
