"""Channels that notify operators of failovers, health and quotas, and their messages."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, Table
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, instant, metadata, text

notification_channels = Table(
    "notification_channels",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), index=True),
    text("name"),
    # log | webhook | email | sms
    text("kind"),
    # A URL, an address, a phone number; empty for the log.
    text("target"),
    # Kinds of events; none: all.
    document("events"),
    # 0 info, 1 warning, 2 critical
    Column("least_severity", Integer, nullable=False),
    Column("dedup_seconds", Integer, nullable=False),
    # A webhook's signing secret, sealed.
    Column("secret", LargeBinary, nullable=True),
    instant("created_at"),
    text("created_by"),
)

notifications = Table(
    "notifications",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id")),
    text("channel_id", ForeignKey("notification_channels.id", ondelete="CASCADE")),
    # The key of equal notices within the channel's window.
    text("dedup_key"),
    # `wedsync.domain.incidents.notice.Notice`.
    document("notice"),
    # How often the same notice came again within the window.
    Column("repeats", Integer, nullable=False, server_default=sql("0")),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    instant("created_at"),
    instant("due_at"),
    # NULL: not sent yet.
    instant("ended_at", nullable=True),
    # NULL: it was sent, or nothing has gone wrong yet.
    text("error", nullable=True),
    Index("ix_notifications_due", "due_at", postgresql_where=sql("ended_at IS NULL")),
    Index("ix_notifications_channel", "channel_id", "dedup_key", "created_at"),
)
