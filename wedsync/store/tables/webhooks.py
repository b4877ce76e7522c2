"""The inbox: every verified inbound event, once."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, Integer, LargeBinary, Table, UniqueConstraint
from sqlalchemy import text as sql

from wedsync.store.tables.base import document, instant, metadata, text

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # NULL until matched.
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("source"),
    # The source's own id: what makes the event unique, for ever.
    text("event_id"),
    # received | processed | unmatched | dead
    text("state", server_default=sql("'received'")),
    # 1 critical | 2 high | 3 normal | 4 low
    Column("priority", Integer, nullable=False, server_default=sql("3")),
    # The normalized event (`wedsync.domain.routing.vendor.VendorEvent`).
    document("event"),
    # The exact bytes received, encrypted.
    Column("body", LargeBinary, nullable=False),
    text("wedding_id", nullable=True),
    text("step_id", nullable=True),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    text("error", nullable=True),
    instant("received_at"),
    # When it is to be looked at (again); NULL: settled.
    instant("due_at", nullable=True),
    # When it was last looked at.
    instant("processed_at", nullable=True),
    UniqueConstraint("source", "event_id"),
    Index("ix_inbox_waiting", "priority", "received_at", postgresql_where=sql("due_at IS NOT NULL")),
)
