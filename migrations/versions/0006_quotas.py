"""External quotas: what each account may do, where each stands, and what was left at each call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, publish

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _key() -> list[sa.Column[str]]:
    return [sa.Column("service", sa.Text(), nullable=False), sa.Column("account", sa.Text(), nullable=False)]


def upgrade() -> None:
    """Create `quota_policies` and `quotas`; `vendor_calls` gains `quota_left`."""
    op.create_table(
        "quota_policies",
        *_key(),
        sa.Column("policy", JSONB(none_as_null=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("service", "account", name="pk_quota_policies"),
    )
    op.create_table(
        "quotas",
        *_key(),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("state", JSONB(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("service", "account", name="pk_quotas"),
    )
    # One hot row an account: its new versions find room on the same page.
    op.execute("ALTER TABLE quotas SET (fillfactor = 20)")
    for table in ("quota_policies", "quotas"):
        publish(table)
        grant(table, "SELECT", "SELECT, INSERT, UPDATE, DELETE")
    op.add_column("vendor_calls", sa.Column("quota_left", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Undo it."""
    op.drop_column("vendor_calls", "quota_left")
    op.drop_table("quotas")
    op.drop_table("quota_policies")
