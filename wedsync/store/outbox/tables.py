"""Subscriptions, the events for them, their deliveries and each attempt at one."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
)
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, instant, metadata, text

webhook_subscriptions = Table(
    "webhook_subscriptions",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), index=True),
    text("url"),
    text("description", server_default=sql("''")),
    # Patterns: `*`, `payment.*`, `payment.captured`.
    document("event_types"),
    # Allowed values by dotted path.
    document("filters"),
    # [{secret, created_at, expires_at}], sealed.
    Column("secrets", LargeBinary, nullable=False),
    text("api_version"),
    # thin | full
    text("payload"),
    Column("ordered", Boolean, nullable=False, server_default=sql("false")),
    Column("rate_per_second", Float, nullable=True),
    Column("max_attempts", Integer, nullable=False),
    text("backoff"),
    # active | failing | recovering | paused | disabled | deleted
    text("status", server_default=sql("'active'")),
    text("reason", nullable=True),
    Column("success_count", BigInteger, nullable=False, server_default=sql("0")),
    Column("failure_count", BigInteger, nullable=False, server_default=sql("0")),
    instant("last_delivery_at", nullable=True),
    # The endpoint's health: `wedsync.domain.outbox.subscription.SubscriptionState`.
    Column("consecutive_failures", Integer, nullable=False, server_default=sql("0")),
    Column("round", Integer, nullable=False, server_default=sql("0")),
    instant("failing_since", nullable=True),
    instant("next_probe_at", nullable=True),
    Column("warned", Integer, nullable=False, server_default=sql("0")),
    Column("pace_per_second", Float, nullable=True),
    instant("created_at"),
    instant("updated_at"),
)

outgoing_events = Table(
    "outgoing_events",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), index=True),
    text("wedding_id", ForeignKey("weddings.id"), nullable=True),
    # The id in `wedding_events` of the change that it reports.
    Column("sequence", BigInteger, nullable=True),
    text("type"),
    document("data"),
    instant("occurred_at"),
    # When nobody needs it any more; NULL: never.
    instant("useful_until", nullable=True),
    Index("ix_outgoing_events_of_no_wedding", "organization_id", "id", postgresql_where=sql("wedding_id IS NULL")),
)

deliveries = Table(
    "deliveries",
    metadata,
    text("id", primary_key=True),
    # The order of recording, which within a wedding is the order of what happened.
    Column("number", BigInteger, Identity(always=True), nullable=False),
    text("organization_id", ForeignKey("organizations.id")),
    text("subscription_id", ForeignKey("webhook_subscriptions.id")),
    text("event_id", ForeignKey("outgoing_events.id"), index=True),
    text("wedding_id", nullable=True),
    # pending | retrying | delivered | failed
    text("status", server_default=sql("'pending'")),
    # All attempts, and those since it was first due or last replayed.
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    Column("tries", Integer, nullable=False, server_default=sql("0")),
    instant("due_at"),
    # Claimed until then.
    instant("leased_until", nullable=True),
    Column("last_status", Integer, nullable=True),
    text("last_error", nullable=True),
    instant("created_at"),
    instant("delivered_at", nullable=True),
    Index("ix_deliveries_page", "organization_id", "id"),
    Index("ix_deliveries_subscription", "subscription_id", "id"),
    Index("ix_deliveries_pending", "subscription_id", "due_at", postgresql_where=sql("status = 'pending'")),
    Index("ix_deliveries_retrying", "subscription_id", "due_at", postgresql_where=sql("status = 'retrying'")),
    Index(
        "ix_deliveries_open",
        "subscription_id",
        "wedding_id",
        "number",
        postgresql_where=sql("status IN ('pending', 'retrying')"),
    ),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    text("organization_id", ForeignKey("organizations.id")),
    text("delivery_id", ForeignKey("deliveries.id")),
    # 1, 2, 3, ...
    Column("number", Integer, nullable=False),
    instant("at"),
    Column("duration_ms", Integer, nullable=False),
    # NULL: there was no answer.
    Column("status", Integer, nullable=True),
    # The answer's beginning.
    text("response", server_default=sql("''")),
    text("error", nullable=True),
    PrimaryKeyConstraint("delivery_id", "number"),
)
