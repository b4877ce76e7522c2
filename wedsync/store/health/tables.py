"""The services' health, and its history."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Identity, Index, Table
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, instant, metadata, number, text

service_health = Table(
    "service_health",
    metadata,
    text("service", primary_key=True),
    # healthy | degraded | unhealthy | down
    text("status"),
    instant("since"),
    instant("checked_at", nullable=True),
    Column("error_rate", Float, nullable=False),
    Column("response_ms", Float, nullable=False),
    number("failures_in_row"),
    number("successes_in_row"),
    number("error_count", BigInteger),
    text("detail", server_default=sql("''")),
    # The newest samples (`wedsync.domain.health.trend.Sample`) and the concerns that they raise (`Concern`).
    document("samples", server_default=sql("'[]'")),
    document("concerns", server_default=sql("'[]'")),
    # When the next probe is due; whoever claims it moves it on.
    instant("due_at"),
)


health_changes = Table(
    "health_changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    text("service"),
    # probe | circuit: the status from all of its circuits | calls: they fail, and the circuit stays closed
    text("source", server_default=sql("'probe'")),
    text("from_status", nullable=True),
    text("status"),
    instant("at"),
    Column("error_rate", Float, nullable=False),
    Column("response_ms", Float, nullable=False),
    text("detail", server_default=sql("''")),
    Index("ix_health_changes_service", "service", "at"),
    Index("ix_health_changes_source", "service", "source", "at"),
)
