"""The account by which a registered source's own list of events is looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it, sealed."""
    op.add_column("webhook_sources", sa.Column("account", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("webhook_sources", "account")
