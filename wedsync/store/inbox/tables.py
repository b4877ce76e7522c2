"""Inbox: every verified inbound event, once; the sources that post to it, and what is known of their events."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY

from wedsync.store.db.schema import document, instant, metadata, text

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # NULL until matched.
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    # A vendor's name, or the id of a registered source.
    text("source"),
    # The source's own id, which makes the event unique, for ever.
    text("event_id"),
    # received | retrying | processed | unmatched | dead
    text("state", server_default=sql("'received'")),
    # 0 of a wedding on its day | 1 critical | 2 high | 3 normal | 4 low
    Column("priority", Integer, nullable=False, server_default=sql("3")),
    # The normalized event (`wedsync.domain.vendors.event.VendorEvent`).
    document("event"),
    # The exact bytes received, encrypted.
    Column("body", LargeBinary, nullable=False),
    text("wedding_id", nullable=True),
    text("step_id", nullable=True),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    text("error", nullable=True),
    # SHA-256 of what was signed, if the event's id was not: it identifies the event under any id.
    Column("replay_key", LargeBinary, nullable=True),
    instant("received_at"),
    # When it was first checked: the wait for its wedding counts from then.
    instant("first_looked_at", nullable=True),
    # When it is to be checked (again); NULL: settled.
    instant("due_at", nullable=True),
    # When it was last checked.
    instant("processed_at", nullable=True),
    # Digests of the phones and addresses that the event names.
    Column("contacts", ARRAY(LargeBinary), nullable=True),
    UniqueConstraint("source", "event_id"),
    Index("ix_inbox_replay_key", "source", "replay_key", unique=True, postgresql_where=sql("replay_key IS NOT NULL")),
    Index("ix_inbox_waiting", "priority", "received_at", postgresql_where=sql("due_at IS NOT NULL")),
    Index("ix_inbox_source_received_at", "source", "received_at"),
    Index(
        "ix_inbox_attention",
        "state",
        "id",
        postgresql_where=sql("state = ANY (ARRAY['unmatched'::text, 'retrying'::text, 'dead'::text])"),
    ),
)

webhook_sources = Table(
    "webhook_sources",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id")),
    text("name"),
    # The last part of its address: the name, or the name and a tail if another source holds it.
    text("path", unique=True),
    # active | paused
    text("state"),
    # `wedsync.domain.inbox.source.SourceConfig`
    document("config"),
    # `wedsync.domain.inbox.source.SourceAccount`, encrypted, bound to organization and row; NULL: none was given.
    Column("account", LargeBinary, nullable=True),
    instant("created_at"),
    instant("updated_at"),
    UniqueConstraint("organization_id", "name"),
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id")),
    text("source_id", ForeignKey("webhook_sources.id", ondelete="CASCADE"), index=True),
    # The secret, encrypted, bound to organization and row.
    Column("sealed", LargeBinary, nullable=False),
    instant("created_at"),
    # When it is no longer accepted, after a rotation; NULL: it is the newest.
    instant("expires_at", nullable=True),
)

webhook_counts = Table(
    "webhook_counts",
    metadata,
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("source"),
    # A refusal's code, `duplicate` or `ignored`.
    text("reason"),
    instant("hour"),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "reason", "hour"),
)

webhook_checks = Table(
    "webhook_checks",
    metadata,
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("source", primary_key=True),
    # The vendor's events were compared with ours up to here.
    instant("checked_until"),
    instant("checked_at"),
    Column("looked_at", BigInteger, nullable=False),
    Column("gaps", BigInteger, nullable=False),
)

contact_refs = Table(
    "contact_refs",
    metadata,
    text("organization_id", ForeignKey("organizations.id")),
    # HMAC-SHA256 of a normalized phone or address under the pepper.
    Column("digest", LargeBinary, nullable=False),
    text("wedding_id", ForeignKey("weddings.id"), index=True),
    text("contact_id"),
    instant("created_at"),
    PrimaryKeyConstraint("digest", "wedding_id", "contact_id"),
)

webhook_objects = Table(
    "webhook_objects",
    metadata,
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("source"),
    text("object_id"),
    # The aspect of the object: `payment`, `message`, ...
    text("topic"),
    # Of the newest event that was processed.
    instant("occurred_at"),
    text("event_id"),
    PrimaryKeyConstraint("source", "object_id", "topic"),
)
