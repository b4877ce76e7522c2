"""Services and their endpoints, circuits with probe permits, failovers, health, and a record of every vendor call.

All but `vendor_calls` and `failover_weddings` belong to the platform: everybody reads them, programs write them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
)
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, flag, instant, metadata, number, text

services = Table(
    "services",
    metadata,
    text("service", primary_key=True),
    # `wedsync.domain.routing.vendor_config.ServiceConfig` without its endpoints.
    document("config"),
    # Counts changes.
    Column("version", BigInteger, nullable=False),
    instant("updated_at"),
    text("updated_by"),
)

service_endpoints = Table(
    "service_endpoints",
    metadata,
    text("service", ForeignKey("services.service", ondelete="CASCADE")),
    text("name"),
    # The order of failover.
    Column("position", Integer, nullable=False),
    # Empty: the bound account's own.
    text("base_url"),
    text("version"),
    text("region"),
    Column("weight", Integer, nullable=False),
    # Calls in flight; 0: no limit.
    Column("capacity", Integer, nullable=False),
    flag("dedicated"),
    PrimaryKeyConstraint("service", "name"),
)

circuits = Table(
    "circuits",
    metadata,
    text("service"),
    text("endpoint"),
    # closed | draining | open | ramping; half-open is open past `open_until`.
    text("state"),
    number("epoch", BigInteger),
    number("round", BigInteger),
    number("trips"),
    instant("open_until", nullable=True),
    number("stage"),
    instant("stage_since", nullable=True),
    number("probes_ok"),
    # open | closed | NULL
    text("forced", nullable=True),
    flag("held"),
    text("reason", server_default=sql("''")),
    # Counters by slice of the window.
    document("window"),
    # Calls that failed lately: the retries of one don't count as many.
    document("failed_calls", server_default=sql("'[]'")),
    # Whose call failed as the last probe; empty: nobody's.
    text("failed_probe", server_default=sql("''")),
    instant("changed_at", nullable=True),
    # Between them it is not switched back: ceremonies are under way.
    instant("noisy_from", nullable=True),
    instant("noisy_until", nullable=True),
    # Counts transitions, not counters: a compare-and-set compares it.
    number("version", BigInteger),
    PrimaryKeyConstraint("service", "endpoint"),
)

probe_permits = Table(
    "probe_permits",
    metadata,
    text("service"),
    text("endpoint"),
    # A permit of an earlier round is void.
    Column("round", BigInteger, nullable=False),
    Column("slot", Integer, nullable=False),
    text("holder", nullable=True),
    # Whose call is the probe; empty: the vendor's own health probe.
    text("caller", server_default=sql("''")),
    instant("leased_until", nullable=True),
    # ok | slow | failed; NULL: not known yet
    text("outcome", nullable=True),
    PrimaryKeyConstraint("service", "endpoint", "round", "slot"),
    ForeignKeyConstraint(["service", "endpoint"], ["circuits.service", "circuits.endpoint"], ondelete="CASCADE"),
)

failovers = Table(
    "failovers",
    metadata,
    text("id", primary_key=True),
    text("from_service"),
    text("endpoint"),
    Column("epoch", BigInteger, nullable=False),
    text("to_service", nullable=True),
    text("reason"),
    # immediate | gradual | manual
    text("strategy"),
    # proposed | active | held | restoring | restored | superseded
    text("status"),
    # `breaker`, `health` or the person who started it.
    text("actor"),
    # NULL: not counted yet.
    Column("affected_weddings", Integer, nullable=True),
    instant("next_moment_at", nullable=True),
    Column("estimated_downtime_ms", BigInteger, nullable=False),
    document("rollback_plan"),
    instant("started_at"),
    # When its guard was started; NULL: not yet.
    instant("guarded_at", nullable=True),
    # When its guard must have checked again, or is started anew.
    instant("guard_due_at", nullable=True),
    instant("restored_at", nullable=True),
    number("fell_back"),
    # A proposal that was superseded leaves its epoch to the next one.
    Index(
        "uq_failovers_from_service_endpoint_epoch",
        "from_service",
        "endpoint",
        "epoch",
        unique=True,
        postgresql_where=sql("status <> 'superseded'"),
    ),
    Index("ix_failovers_started_at", "started_at"),
    Index("ix_failovers_standing", "status", postgresql_where=sql("status NOT IN ('restored', 'superseded')")),
)

failover_weddings = Table(
    "failover_weddings",
    metadata,
    text("failover_id", ForeignKey("failovers.id", ondelete="CASCADE")),
    text("organization_id", ForeignKey("organizations.id")),
    text("wedding_id"),
    instant("ceremony_at"),
    PrimaryKeyConstraint("failover_id", "wedding_id"),
)

vendor_calls = Table(
    "vendor_calls",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # No foreign keys: a batch of records is never lost for one of them.
    text("organization_id"),
    text("wedding_id"),
    text("transaction_id"),
    text("step_id"),
    text("service"),
    text("endpoint"),
    text("version"),
    text("operation"),
    # send | find | look | trial
    text("ask"),
    # `ok` or the error's code.
    text("outcome"),
    text("reason", nullable=True),
    Column("duration_ms", Float, nullable=False),
    # Of the tightest window of the account's quota; NULL: it has none.
    Column("quota_left", BigInteger, nullable=True),
    instant("at"),
    Index("ix_vendor_calls_service", "service", "at"),
    Index("ix_vendor_calls_wedding", "organization_id", "wedding_id", "id"),
)
