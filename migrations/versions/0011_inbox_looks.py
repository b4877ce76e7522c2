"""When an inbound event was first looked at, and by what a message is known again whose id is not signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two to the inbox."""
    op.add_column("inbox", sa.Column("replay_key", sa.LargeBinary(), nullable=True))
    op.add_column("inbox", sa.Column("first_looked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_inbox_replay_key",
        "inbox",
        ["source", "replay_key"],
        unique=True,
        postgresql_where=sa.text("replay_key IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_inbox_replay_key", table_name="inbox")
    op.drop_column("inbox", "first_looked_at")
    op.drop_column("inbox", "replay_key")
