"""A circuit's row says when it must not be switched back, for guards and calls alike."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = ("noisy_from", "noisy_until")


def upgrade() -> None:
    """Add the two moments."""
    for name in _COLUMNS:
        op.add_column("circuits", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in _COLUMNS:
        op.drop_column("circuits", name)
