"""External quotas: the platform's own. Everybody reads them, programs write them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Table

from wedsync.store.db.schema import document, instant, metadata, text

quota_policies = Table(
    "quota_policies",
    metadata,
    text("service"),
    text("account"),
    # `wedsync.domain.quotas.quota.QuotaPolicy`
    document("policy"),
    instant("updated_at"),
    text("updated_by"),
    PrimaryKeyConstraint("service", "account"),
)

quotas = Table(
    "quotas",
    metadata,
    text("service"),
    text("account"),
    # Counts changes: a writer names the one that it has seen.
    Column("version", BigInteger, nullable=False),
    # The newest write's own mark, by which its writer knows that the write was its own.
    text("nonce"),
    # `wedsync.domain.quotas.quota.Quota` without its key and version.
    document("state"),
    PrimaryKeyConstraint("service", "account"),
)
