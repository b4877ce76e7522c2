"""Versions of vendors' APIs as operators give them, pins, and migrations from one version to another.

A pin or a migration with no organization applies to all of them, and only programs see it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Identity, Index, Integer, PrimaryKeyConstraint, Table
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, instant, metadata, text

vendor_versions = Table(
    "vendor_versions",
    metadata,
    text("service"),
    text("name"),
    # `wedsync.domain.vendors.manifest.VersionSpec`.
    document("spec"),
    instant("updated_at"),
    text("updated_by"),
    PrimaryKeyConstraint("service", "name"),
)

version_pins = Table(
    "version_pins",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("service"),
    text("version"),
    Column("share_percent", Integer, nullable=False, server_default=sql("100")),
    instant("since"),
    # NULL: it holds.
    instant("until", nullable=True),
    # The migration that laid it over the existing pin; empty: an operator's own.
    text("migration_id", server_default=sql("''")),
    text("pinned_by"),
    Index("ix_version_pins_until", "until"),
)

version_migrations = Table(
    "version_migrations",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id"), nullable=True),
    text("service"),
    # prepare | shadow | canary | verify | done | rolled_back
    text("stage"),
    # `wedsync.domain.versions.migration.Migration`.
    document("state"),
    Column("paused", Boolean, nullable=False, server_default=sql("false")),
    Column("rollback_asked", Boolean, nullable=False, server_default=sql("false")),
    instant("started_at"),
    instant("ended_at", nullable=True),
    text("started_by"),
    Index(
        "ix_version_migrations_live",
        "service",
        sql("coalesce(organization_id, '')"),
        unique=True,
        postgresql_where=sql("ended_at IS NULL"),
    ),
)
