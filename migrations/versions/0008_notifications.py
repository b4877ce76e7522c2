"""Channels for operators with what is told by them, and the looks and concerns of each service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, isolate

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ALL = "SELECT, INSERT, UPDATE, DELETE"


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"))


def _json(name: str, default: str | None = None) -> sa.Column[object]:
    server_default = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, JSONB(none_as_null=True), nullable=False, server_default=server_default)


def _of_organization(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_organization_id_organizations"
    return sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=name)


def upgrade() -> None:
    """Create the two, and add to the services' health."""
    _create_channels()
    _create_notifications()
    grant("notification_channels", _ALL, _ALL)
    grant("notifications", "SELECT", _ALL)
    for table in ("notification_channels", "notifications"):
        isolate(table)
    op.add_column("service_health", _json("samples", "[]"))
    op.add_column("service_health", _json("concerns", "[]"))


def _create_channels() -> None:
    op.create_table(
        "notification_channels",
        _text("id"),
        _text("organization_id"),
        _text("name"),
        _text("kind"),
        _text("target"),
        _json("events"),
        sa.Column("least_severity", sa.Integer(), nullable=False),
        sa.Column("dedup_seconds", sa.Integer(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        _instant("created_at"),
        _text("created_by"),
        sa.PrimaryKeyConstraint("id", name="pk_notification_channels"),
        _of_organization("notification_channels"),
    )
    op.create_index("ix_notification_channels_organization_id", "notification_channels", ["organization_id"])


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        _text("id"),
        _text("organization_id"),
        _text("channel_id"),
        _text("dedup_key"),
        _json("notice"),
        _count("repeats"),
        _count("attempts"),
        _instant("created_at"),
        _instant("due_at"),
        _instant("ended_at", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        _of_organization("notifications"),
        sa.ForeignKeyConstraint(
            ["channel_id"],
            ["notification_channels.id"],
            name="fk_notifications_channel_id_notification_channels",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_notifications_due", "notifications", ["due_at"], postgresql_where=sa.text("ended_at IS NULL"))
    op.create_index("ix_notifications_channel", "notifications", ["channel_id", "dedup_key", "created_at"])


def downgrade() -> None:
    """Drop them."""
    for column in ("concerns", "samples"):
        op.drop_column("service_health", column)
    for table in ("notifications", "notification_channels"):
        op.drop_table(table)
