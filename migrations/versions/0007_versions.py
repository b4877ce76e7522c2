"""Versions of vendors' APIs, pins of services and organizations, migrations between versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, isolate, publish

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_OURS = "fk_{table}_organization_id_organizations"


def _text(name: str, nullable: bool = False, default: str | None = None) -> sa.Column[str]:
    server_default = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, sa.Text(), nullable=nullable, server_default=server_default)


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("false"))


def _of_organization(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=_OURS.format(table=table))


def upgrade() -> None:
    """Create the three."""
    op.create_table(
        "vendor_versions",
        _text("service"),
        _text("name"),
        sa.Column("spec", JSONB(none_as_null=True), nullable=False),
        _instant("updated_at"),
        _text("updated_by"),
        sa.PrimaryKeyConstraint("service", "name", name="pk_vendor_versions"),
    )
    grant("vendor_versions", "SELECT", _ALL)
    publish("vendor_versions")
    _create_pins()
    _create_migrations()
    for table in ("version_pins", "version_migrations"):
        grant(table, "SELECT", _ALL)
        isolate(table)


def _create_pins() -> None:
    op.create_table(
        "version_pins",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("organization_id", nullable=True),
        _text("service"),
        _text("version"),
        sa.Column("share_percent", sa.Integer(), nullable=False, server_default=sa.text("100")),
        _instant("since"),
        _instant("until", nullable=True),
        _text("migration_id", default=""),
        _text("pinned_by"),
        sa.PrimaryKeyConstraint("id", name="pk_version_pins"),
        _of_organization("version_pins"),
    )
    op.create_index("ix_version_pins_until", "version_pins", ["until"])


def _create_migrations() -> None:
    op.create_table(
        "version_migrations",
        _text("id"),
        _text("organization_id", nullable=True),
        _text("service"),
        _text("stage"),
        sa.Column("state", JSONB(none_as_null=True), nullable=False),
        _flag("paused"),
        _flag("rollback_asked"),
        _instant("started_at"),
        _instant("ended_at", nullable=True),
        _text("started_by"),
        sa.PrimaryKeyConstraint("id", name="pk_version_migrations"),
        _of_organization("version_migrations"),
    )
    op.create_index(
        "ix_version_migrations_live",
        "version_migrations",
        ["service", sa.text("coalesce(organization_id, '')")],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("version_migrations", "version_pins", "vendor_versions"):
        op.drop_table(table)
