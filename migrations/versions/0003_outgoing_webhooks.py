"""Subscriptions to our events, the events, their deliveries and every attempt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, isolate

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEEP = "SELECT, INSERT, UPDATE"
_APPEND = "SELECT, INSERT"

#: table → what wedsync_app may do, what wedsync_system may do.
_GRANTS = {
    "webhook_subscriptions": (_KEEP, _KEEP),
    "outgoing_events": (_APPEND, _APPEND),
    "deliveries": (_KEEP, _KEEP),
    "delivery_attempts": ("SELECT", _APPEND),
}


def _text(name: str, nullable: bool = False, default: str | None = None) -> sa.Column[str]:
    server_default = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, sa.Text(), nullable=nullable, server_default=server_default)


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _document(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB(none_as_null=True), nullable=False)


def _counter(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind(), nullable=False, server_default=sa.text("0"))


def _belongs(table: str, **targets: str) -> list[sa.ForeignKeyConstraint]:
    targets = {"organization_id": "organizations", **targets}
    return [
        sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}_{target}")
        for column, target in targets.items()
    ]


def upgrade() -> None:
    _create_subscriptions()
    _create_events()
    _create_deliveries()
    for table, (app, system) in _GRANTS.items():
        grant(table, app, system)
        isolate(table)


def _create_subscriptions() -> None:
    op.create_table(
        "webhook_subscriptions",
        _text("id"),
        _text("organization_id"),
        _text("url"),
        _text("description", default=""),
        _document("event_types"),
        _document("filters"),
        sa.Column("secrets", sa.LargeBinary(), nullable=False),
        _text("api_version"),
        _text("payload"),
        sa.Column("ordered", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("rate_per_second", sa.Float(), nullable=True),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        _text("backoff"),
        _text("status", default="active"),
        _text("reason", nullable=True),
        _counter("success_count", sa.BigInteger),
        _counter("failure_count", sa.BigInteger),
        _instant("last_delivery_at", nullable=True),
        _counter("consecutive_failures"),
        _counter("round"),
        _instant("failing_since", nullable=True),
        _instant("next_probe_at", nullable=True),
        _counter("warned"),
        sa.Column("pace_per_second", sa.Float(), nullable=True),
        _instant("created_at"),
        _instant("updated_at"),
        *_belongs("webhook_subscriptions"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_subscriptions"),
    )
    op.create_index("ix_webhook_subscriptions_organization_id", "webhook_subscriptions", ["organization_id"])


def _create_events() -> None:
    op.create_table(
        "outgoing_events",
        _text("id"),
        _text("organization_id"),
        _text("wedding_id", nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        _text("type"),
        _document("data"),
        _instant("occurred_at"),
        _instant("useful_until", nullable=True),
        *_belongs("outgoing_events", wedding_id="weddings"),
        sa.PrimaryKeyConstraint("id", name="pk_outgoing_events"),
    )
    op.create_index("ix_outgoing_events_organization_id", "outgoing_events", ["organization_id"])


def _create_deliveries() -> None:
    table = "deliveries"
    op.create_table(
        table,
        _text("id"),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("organization_id"),
        _text("subscription_id"),
        _text("event_id"),
        _text("wedding_id", nullable=True),
        _text("status", default="pending"),
        _counter("attempts"),
        _counter("tries"),
        _instant("due_at"),
        _instant("leased_until", nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        _text("last_error", nullable=True),
        _instant("created_at"),
        _instant("delivered_at", nullable=True),
        *_belongs(table, subscription_id="webhook_subscriptions", event_id="outgoing_events"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_event_id", table, ["event_id"])
    op.create_index("ix_deliveries_page", table, ["organization_id", "id"])
    op.create_index("ix_deliveries_subscription", table, ["subscription_id", "id"])
    for status in ("pending", "retrying"):
        where = sa.text(f"status = '{status}'")
        op.create_index(f"ix_deliveries_{status}", table, ["subscription_id", "due_at"], postgresql_where=where)
    op.create_index(
        "ix_deliveries_open",
        table,
        ["subscription_id", "wedding_id", "number"],
        postgresql_where=sa.text("status IN ('pending', 'retrying')"),
    )
    op.create_table(
        "delivery_attempts",
        _text("organization_id"),
        _text("delivery_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _instant("at"),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        _text("response", default=""),
        _text("error", nullable=True),
        *_belongs("delivery_attempts", delivery_id=table),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_delivery_attempts"),
    )


def downgrade() -> None:
    for table in reversed(_GRANTS):
        op.drop_table(table)
