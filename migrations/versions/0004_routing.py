"""Services and endpoints, circuits and probe permits, failovers, health, records of vendor calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, isolate, publish

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_READ = "SELECT"

#: The platform's own, in the order of making: everybody reads, programs write.
_PLATFORM = (
    "services",
    "service_endpoints",
    "circuits",
    "probe_permits",
    "failovers",
    "service_health",
    "health_changes",
)
#: An organization's.
_TENANT = ("failover_weddings", "vendor_calls")


def _text(name: str, nullable: bool = False, default: str | None = None) -> sa.Column[str]:
    server_default = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, sa.Text(), nullable=nullable, server_default=server_default)


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _document(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB(none_as_null=True), nullable=False)


def _number(name: str, kind: type[sa.Integer] = sa.Integer, default: bool = True) -> sa.Column[int]:
    return sa.Column(name, kind(), nullable=False, server_default=sa.text("0") if default else None)


def _float(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("false"))


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False)


def upgrade() -> None:
    _create_services()
    _create_circuits()
    _create_failovers()
    _create_calls()
    _create_health()
    for table in _PLATFORM:
        grant(table, _READ, _ALL)
        publish(table)
    for table in _TENANT:
        grant(table, _READ, _ALL)
        isolate(table)


def _create_services() -> None:
    op.create_table(
        "services",
        _text("service"),
        _document("config"),
        _number("version", sa.BigInteger, default=False),
        _instant("updated_at"),
        _text("updated_by"),
        sa.PrimaryKeyConstraint("service", name="pk_services"),
    )
    op.create_table(
        "service_endpoints",
        _text("service"),
        _text("name"),
        _number("position", default=False),
        _text("base_url"),
        _text("version"),
        _text("region"),
        _number("weight", default=False),
        _number("capacity", default=False),
        _flag("dedicated"),
        sa.ForeignKeyConstraint(
            ["service"], ["services.service"], name="fk_service_endpoints_service_services", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service", "name", name="pk_service_endpoints"),
    )


def _create_circuits() -> None:
    op.create_table(
        "circuits",
        _text("service"),
        _text("endpoint"),
        _text("state"),
        _number("epoch", sa.BigInteger),
        _number("round", sa.BigInteger),
        _number("trips"),
        _instant("open_until", nullable=True),
        _number("stage"),
        _instant("stage_since", nullable=True),
        _number("probes_ok"),
        _text("forced", nullable=True),
        _flag("held"),
        _text("reason", default=""),
        _document("window"),
        _instant("changed_at", nullable=True),
        _number("version", sa.BigInteger),
        sa.PrimaryKeyConstraint("service", "endpoint", name="pk_circuits"),
    )
    op.create_table(
        "probe_permits",
        _text("service"),
        _text("endpoint"),
        _number("round", sa.BigInteger, default=False),
        _number("slot", default=False),
        _text("holder", nullable=True),
        _instant("leased_until", nullable=True),
        _text("outcome", nullable=True),
        sa.ForeignKeyConstraint(
            ["service", "endpoint"],
            ["circuits.service", "circuits.endpoint"],
            name="fk_probe_permits_service_endpoint_circuits",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("service", "endpoint", "round", "slot", name="pk_probe_permits"),
    )


def _create_failovers() -> None:
    op.create_table(
        "failovers",
        _text("id"),
        _text("from_service"),
        _text("endpoint"),
        _number("epoch", sa.BigInteger, default=False),
        _text("to_service", nullable=True),
        _text("reason"),
        _text("strategy"),
        _text("status"),
        _text("actor"),
        sa.Column("affected_weddings", sa.Integer(), nullable=True),
        _instant("next_moment_at", nullable=True),
        _number("estimated_downtime_ms", sa.BigInteger, default=False),
        _document("rollback_plan"),
        _instant("started_at"),
        _instant("guarded_at", nullable=True),
        _instant("restored_at", nullable=True),
        _number("fell_back"),
        sa.PrimaryKeyConstraint("id", name="pk_failovers"),
        sa.UniqueConstraint("from_service", "endpoint", "epoch", name="uq_failovers_from_service_endpoint_epoch"),
    )
    op.create_index("ix_failovers_started_at", "failovers", ["started_at"])
    op.create_table(
        "failover_weddings",
        _text("failover_id"),
        _text("organization_id"),
        _text("wedding_id"),
        _instant("ceremony_at"),
        sa.ForeignKeyConstraint(
            ["failover_id"], ["failovers.id"], name="fk_failover_weddings_failover_id_failovers", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_failover_weddings_organization_id_organizations"
        ),
        sa.PrimaryKeyConstraint("failover_id", "wedding_id", name="pk_failover_weddings"),
    )


def _create_calls() -> None:
    names = ("organization_id", "wedding_id", "transaction_id", "step_id", "service", "endpoint", "version")
    op.create_table(
        "vendor_calls",
        _identity(),
        *(_text(name) for name in (*names, "operation", "ask", "outcome")),
        _text("reason", nullable=True),
        _float("duration_ms"),
        _instant("at"),
        sa.PrimaryKeyConstraint("id", name="pk_vendor_calls"),
    )
    op.create_index("ix_vendor_calls_service", "vendor_calls", ["service", "at"])
    op.create_index("ix_vendor_calls_wedding", "vendor_calls", ["organization_id", "wedding_id", "id"])


def _create_health() -> None:
    op.create_table(
        "service_health",
        _text("service"),
        _text("status"),
        _instant("since"),
        _instant("checked_at", nullable=True),
        _float("error_rate"),
        _float("response_ms"),
        _number("failures_in_row"),
        _number("successes_in_row"),
        _number("error_count", sa.BigInteger),
        _text("detail", default=""),
        _instant("due_at"),
        sa.PrimaryKeyConstraint("service", name="pk_service_health"),
    )
    op.create_table(
        "health_changes",
        _identity(),
        _text("service"),
        _text("from_status", nullable=True),
        _text("status"),
        _instant("at"),
        _float("error_rate"),
        _float("response_ms"),
        _text("detail", default=""),
        sa.PrimaryKeyConstraint("id", name="pk_health_changes"),
    )
    op.create_index("ix_health_changes_service", "health_changes", ["service", "at"])


def downgrade() -> None:
    for table in (*_TENANT, *reversed(_PLATFORM)):
        op.drop_table(table)
