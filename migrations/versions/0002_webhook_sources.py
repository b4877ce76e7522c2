"""Webhook sources with their secrets, refusal counts, contact references, newest states, reconciliation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from migrations.rules import grant, isolate

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_READ = "SELECT"

#: table → what wedsync_app may do, what wedsync_system may do.
_GRANTS = {
    "webhook_sources": (_ALL, _ALL),
    "webhook_secrets": (_ALL, _ALL),
    # Counted and kept by programs, read by their organization.
    "webhook_counts": (_READ, _ALL),
    "contact_refs": (_ALL, _ALL),
    "webhook_objects": (_READ, _ALL),
    "webhook_checks": (_READ, _ALL),
}


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _owner(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id"], ["organizations.id"], name=f"fk_{table}_organization_id_organizations"
    )


def upgrade() -> None:
    _create_sources()
    _create_counts()
    _create_references()
    _widen_inbox()
    for table, (app, system) in _GRANTS.items():
        grant(table, app, system)
        isolate(table)


def _create_sources() -> None:
    op.create_table(
        "webhook_sources",
        _text("id"),
        _text("organization_id"),
        _text("name"),
        _text("path"),
        _text("state"),
        sa.Column("config", JSONB(none_as_null=True), nullable=False),
        _instant("created_at"),
        _instant("updated_at"),
        _owner("webhook_sources"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_sources"),
        sa.UniqueConstraint("organization_id", "name", name="uq_webhook_sources_organization_id_name"),
        sa.UniqueConstraint("path", name="uq_webhook_sources_path"),
    )
    op.create_table(
        "webhook_secrets",
        _text("id"),
        _text("organization_id"),
        _text("source_id"),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        _instant("created_at"),
        _instant("expires_at", nullable=True),
        _owner("webhook_secrets"),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["webhook_sources.id"],
            name="fk_webhook_secrets_source_id_webhook_sources",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_secrets"),
    )
    op.create_index("ix_webhook_secrets_source_id", "webhook_secrets", ["source_id"])


def _create_counts() -> None:
    op.create_table(
        "webhook_counts",
        _text("organization_id", nullable=True),
        _text("source"),
        _text("reason"),
        _instant("hour"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        _owner("webhook_counts"),
        sa.PrimaryKeyConstraint("source", "reason", "hour", name="pk_webhook_counts"),
    )
    op.create_table(
        "webhook_checks",
        _text("organization_id", nullable=True),
        _text("source"),
        _instant("checked_until"),
        _instant("checked_at"),
        sa.Column("looked_at", sa.BigInteger(), nullable=False),
        sa.Column("gaps", sa.BigInteger(), nullable=False),
        _owner("webhook_checks"),
        sa.PrimaryKeyConstraint("source", name="pk_webhook_checks"),
    )


def _create_references() -> None:
    op.create_table(
        "contact_refs",
        _text("organization_id"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _text("wedding_id"),
        _text("contact_id"),
        _instant("created_at"),
        _owner("contact_refs"),
        sa.ForeignKeyConstraint(["wedding_id"], ["weddings.id"], name="fk_contact_refs_wedding_id_weddings"),
        sa.PrimaryKeyConstraint("digest", "wedding_id", "contact_id", name="pk_contact_refs"),
    )
    op.create_index("ix_contact_refs_wedding_id", "contact_refs", ["wedding_id"])
    op.create_table(
        "webhook_objects",
        _text("organization_id", nullable=True),
        _text("source"),
        _text("object_id"),
        _text("topic"),
        _instant("occurred_at"),
        _text("event_id"),
        _owner("webhook_objects"),
        sa.PrimaryKeyConstraint("source", "object_id", "topic", name="pk_webhook_objects"),
    )


def _widen_inbox() -> None:
    op.add_column("inbox", sa.Column("contacts", ARRAY(sa.LargeBinary()), nullable=True))
    op.create_index("ix_inbox_source_received_at", "inbox", ["source", "received_at"])
    op.create_index(
        "ix_inbox_attention",
        "inbox",
        ["state", "id"],
        postgresql_where=sa.text("state = ANY (ARRAY['unmatched'::text, 'retrying'::text, 'dead'::text])"),
    )


def downgrade() -> None:
    op.drop_index("ix_inbox_attention", "inbox")
    op.drop_index("ix_inbox_source_received_at", "inbox")
    op.drop_column("inbox", "contacts")
    for table in ("webhook_objects", "contact_refs", "webhook_checks", "webhook_counts", "webhook_secrets"):
        op.drop_table(table)
    op.drop_table("webhook_sources")
