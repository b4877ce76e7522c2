"""Organizations, keys, audit log; weddings with plans, transactions, steps and events; the inbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import ensure_roles, grant, isolate

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_KEEP = "SELECT, INSERT, UPDATE"
_APPEND = "SELECT, INSERT"

#: table → what wedsync_app may do, what wedsync_system may do.
_GRANTS = {
    "organizations": ("SELECT", _KEEP),
    # Keys are looked up before the organization is known: only programs see them.
    "api_keys": ("", _KEEP),
    "audit_log": (_APPEND, _APPEND),
    "idempotency_keys": (_ALL, _ALL),
    "weddings": (_KEEP, _KEEP),
    "plans": (_APPEND, _APPEND),
    "transactions": (_KEEP, _KEEP),
    "steps": (_ALL, _ALL),
    "external_refs": (_KEEP, _KEEP),
    "wedding_events": (_APPEND, _ALL),
    # An unmatched event has no organization, so only programs see it.
    "inbox": (_KEEP, _ALL),
}

_REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$
"""


def _text(name: str, nullable: bool = False, **options: object) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable, **options)  # type: ignore[arg-type]


def _instant(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _document(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, JSONB(none_as_null=True), nullable=nullable)


def _number(name: str, default: int | None = 0, big: bool = False) -> sa.Column[int]:
    kind = sa.BigInteger() if big else sa.Integer()
    server_default = None if default is None else sa.text(str(default))
    return sa.Column(name, kind, nullable=False, server_default=server_default)


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False)


def _belongs(table: str, *columns: str) -> list[sa.ForeignKeyConstraint]:
    targets = {"organization_id": "organizations", "wedding_id": "weddings"}
    return [
        sa.ForeignKeyConstraint([column], [f"{targets[column]}.id"], name=f"fk_{table}_{column}_{targets[column]}")
        for column in columns
    ]


def upgrade() -> None:
    ensure_roles()
    _create_access()
    _create_weddings()
    _create_progress()
    _create_inbox()
    _protect()


def _create_access() -> None:
    op.create_table(
        "organizations",
        _text("id"),
        _text("name"),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
    )
    op.create_table(
        "api_keys",
        _text("id"),
        _text("organization_id"),
        _text("name"),
        sa.Column("key_hmac", sa.LargeBinary(), nullable=False),
        _instant("created_at"),
        _instant("revoked_at", nullable=True),
        *_belongs("api_keys", "organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hmac", name="uq_api_keys_key_hmac"),
    )
    op.create_index("ix_api_keys_organization_id", "api_keys", ["organization_id"])
    op.create_table(
        "audit_log",
        _identity(),
        _text("organization_id"),
        _instant("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _document("detail"),
        *_belongs("audit_log", "organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_organization_id", "audit_log", ["organization_id"])
    op.create_table(
        "idempotency_keys",
        _text("organization_id"),
        _text("key"),
        _text("fingerprint"),
        sa.Column("status", sa.Integer(), nullable=True),
        _document("headers", nullable=True),
        _document("body", nullable=True),
        _instant("created_at"),
        *_belongs("idempotency_keys", "organization_id"),
        sa.PrimaryKeyConstraint("organization_id", "key", name="pk_idempotency_keys"),
    )


def _create_weddings() -> None:
    op.create_table(
        "weddings",
        _text("id"),
        _text("organization_id"),
        _text("reference"),
        _text("status"),
        _text("phase"),
        _text("mode"),
        _text("ceremony_local"),
        _text("zone"),
        _instant("ceremony_at"),
        _number("plan_version", default=None),
        _number("event_seq", big=True),
        _number("version", big=True),
        _number("transaction_seq"),
        _instant("created_at"),
        _instant("updated_at"),
        _instant("ended_at", nullable=True),
        *_belongs("weddings", "organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_weddings"),
        sa.UniqueConstraint("organization_id", "reference", name="uq_weddings_organization_id_reference"),
    )
    op.create_index("ix_weddings_page", "weddings", ["organization_id", "id"])
    op.create_table(
        "plans",
        _text("organization_id"),
        _text("wedding_id"),
        _number("version", default=None),
        _document("body"),
        _instant("created_at"),
        _text("transaction_id", nullable=True),
        *_belongs("plans", "organization_id", "wedding_id"),
        sa.PrimaryKeyConstraint("wedding_id", "version", name="pk_plans"),
    )
    op.create_table(
        "transactions",
        _text("id"),
        _text("organization_id"),
        _text("wedding_id"),
        _text("kind"),
        _text("status"),
        _document("gaps"),
        _document("request"),
        _document("step_ids"),
        _document("result", nullable=True),
        _document("error", nullable=True),
        _instant("requested_at"),
        _instant("handed_off_at", nullable=True),
        _text("traceparent", nullable=True),
        _instant("started_at", nullable=True),
        _instant("ended_at", nullable=True),
        _number("version", big=True),
        *_belongs("transactions", "organization_id", "wedding_id"),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
    )
    op.create_index("ix_transactions_wedding", "transactions", ["wedding_id", "id"])
    op.create_index(
        "ix_transactions_untold",
        "transactions",
        ["requested_at"],
        postgresql_where=sa.text("handed_off_at IS NULL"),
    )


def _create_progress() -> None:
    op.create_table(
        "steps",
        _text("organization_id"),
        _text("wedding_id"),
        _text("step_id"),
        _number("position", default=None),
        _text("transaction_id", nullable=True),
        _text("service"),
        _text("capability"),
        _text("action"),
        _text("status"),
        _text("vendor", nullable=True),
        sa.Column("fallback_used", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _number("attempts"),
        _text("external_id", nullable=True),
        _instant("due_at", nullable=True),
        _instant("started_at", nullable=True),
        _instant("ended_at", nullable=True),
        _document("error", nullable=True),
        _document("compensation", nullable=True),
        _number("version", big=True),
        *_belongs("steps", "organization_id", "wedding_id"),
        sa.PrimaryKeyConstraint("wedding_id", "step_id", name="pk_steps"),
    )
    op.create_table(
        "external_refs",
        _text("organization_id"),
        _text("vendor"),
        _text("account"),
        _text("object_id"),
        _text("wedding_id"),
        _text("step_id"),
        _text("transaction_id"),
        _instant("created_at"),
        *_belongs("external_refs", "organization_id", "wedding_id"),
        sa.PrimaryKeyConstraint("vendor", "object_id", "wedding_id", name="pk_external_refs"),
    )
    op.create_index("ix_external_refs_wedding_id", "external_refs", ["wedding_id"])
    op.create_table(
        "wedding_events",
        _text("organization_id"),
        _text("wedding_id"),
        _number("id", default=None, big=True),
        _text("type"),
        _document("data"),
        _instant("created_at"),
        *_belongs("wedding_events", "organization_id", "wedding_id"),
        sa.PrimaryKeyConstraint("wedding_id", "id", name="pk_wedding_events"),
    )


def _create_inbox() -> None:
    op.create_table(
        "inbox",
        _identity(),
        _text("organization_id", nullable=True),
        _text("source"),
        _text("event_id"),
        _text("state", server_default=sa.text("'received'")),
        _number("priority", default=3),
        _document("event"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _text("wedding_id", nullable=True),
        _text("step_id", nullable=True),
        _number("attempts"),
        _text("error", nullable=True),
        _instant("received_at"),
        _instant("due_at", nullable=True),
        _instant("processed_at", nullable=True),
        *_belongs("inbox", "organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("source", "event_id", name="uq_inbox_source_event_id"),
    )
    op.create_index(
        "ix_inbox_waiting", "inbox", ["priority", "received_at"], postgresql_where=sa.text("due_at IS NOT NULL")
    )


def _protect() -> None:
    op.execute("GRANT USAGE ON SCHEMA public TO wedsync_app, wedsync_system")
    op.execute("GRANT SELECT ON alembic_version TO wedsync_app, wedsync_system")
    for table, (app, system) in _GRANTS.items():
        grant(table, app, system)
        isolate(table, "id" if table == "organizations" else "organization_id")
    op.execute(_REFUSE_CHANGE)
    op.execute(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    for table in reversed(_GRANTS):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
    op.execute("REVOKE ALL ON alembic_version FROM wedsync_app, wedsync_system")
    op.execute("REVOKE USAGE ON SCHEMA public FROM wedsync_app, wedsync_system")
