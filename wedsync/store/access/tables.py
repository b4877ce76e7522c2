"""Organizations, their API keys, the audit log and remembered answers."""

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
)

from wedsync.store.db.schema import document, instant, metadata, text

organizations = Table(
    "organizations",
    metadata,
    text("id", primary_key=True),
    text("name"),
    instant("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), index=True),
    text("name"),
    # HMAC-SHA256 of the whole key under the pepper: the key itself is never stored.
    Column("key_hmac", LargeBinary, nullable=False, unique=True),
    instant("created_at"),
    instant("revoked_at", nullable=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    text("organization_id", ForeignKey("organizations.id")),
    instant("at"),
    # `key:<id>`, `system:<program>`.
    text("actor"),
    # `wedding.created`, `transaction.requested`, `step.decided`, ...
    text("action"),
    # `wedding/<id>`, `transaction/<id>`.
    text("subject"),
    document("detail"),
    Index("ix_audit_log_at", "at", "id"),
    Index("ix_audit_log_organization_at", "organization_id", "at", "id"),
    # Finds everything beneath a subject, too, whatever the database's collation.
    Index("ix_audit_log_subject", "subject", postgresql_ops={"subject": "text_pattern_ops"}),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    text("organization_id", ForeignKey("organizations.id")),
    text("key"),
    # Of method, path and body.
    text("fingerprint"),
    # NULL while the first request is in flight.
    Column("status", Integer, nullable=True),
    document("headers", nullable=True),
    document("body", nullable=True),
    instant("created_at"),
    PrimaryKeyConstraint("organization_id", "key"),
)
