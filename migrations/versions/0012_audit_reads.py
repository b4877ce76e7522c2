"""The audit log is read by time, by organization and by subject."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index what is asked for; the organization's old index is contained in the new one."""
    op.create_index("ix_audit_log_at", "audit_log", ["at", "id"])
    op.create_index("ix_audit_log_organization_at", "audit_log", ["organization_id", "at", "id"])
    op.create_index("ix_audit_log_subject", "audit_log", ["subject"], postgresql_ops={"subject": "text_pattern_ops"})
    op.drop_index("ix_audit_log_organization_id", "audit_log")


def downgrade() -> None:
    """As it was."""
    op.create_index("ix_audit_log_organization_id", "audit_log", ["organization_id"])
    for name in ("subject", "organization_at", "at"):
        op.drop_index(f"ix_audit_log_{name}", "audit_log")
