"""A service's history has two sources: its probes, and what all of its circuits come to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """`health_changes` gains `source`; all that stands was said by probes."""
    op.add_column("health_changes", sa.Column("source", sa.Text(), nullable=False, server_default=sa.text("'probe'")))
    op.create_index("ix_health_changes_source", "health_changes", ["service", "source", "at"])


def downgrade() -> None:
    """What circuits said is gone."""
    op.drop_index("ix_health_changes_source", "health_changes")
    op.execute("DELETE FROM health_changes WHERE source <> 'probe'")
    op.drop_column("health_changes", "source")
