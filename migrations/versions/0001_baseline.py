"""Make the schema of the first release: a file of SQL for each slice, then each table's rights."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from migrations.rules import create_function, drop_function, ensure_roles, grant, isolate, publish

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FOLDER = Path(__file__).resolve().parents[1] / "baseline"
#: A slice's tables refer to those of the slices before it.
_SLICES = ("access", "weddings", "inbox", "outbox", "routing", "quotas", "versions", "health", "notifications")

_CLAIM = "text, text, jsonb, timestamptz"
_NONE = ""
_READ = "SELECT"
_APPEND = "SELECT, INSERT"
_KEEP = "SELECT, INSERT, UPDATE"
_ALL = "SELECT, INSERT, UPDATE, DELETE"

#: Each row belongs to one organization. table → what wedsync_app may do, what wedsync_system may do.
_OWNED = {
    "organizations": (_READ, _KEEP),
    # Keys are looked up before the organization is known: only programs see them.
    "api_keys": (_NONE, _KEEP),
    "audit_log": (_APPEND, _APPEND),
    "idempotency_keys": (_ALL, _ALL),
    "weddings": (_KEEP, _KEEP),
    "plans": (_APPEND, _APPEND),
    "transactions": (_KEEP, _KEEP),
    "steps": (_ALL, _ALL),
    "external_refs": (_KEEP, _KEEP),
    "contact_refs": (_ALL, _ALL),
    "wedding_events": (_APPEND, _ALL),
    "webhook_sources": (_ALL, _ALL),
    "webhook_secrets": (_ALL, _ALL),
    # An unmatched event has no organization, so only programs see it.
    "inbox": (_KEEP, _ALL),
    "webhook_counts": (_READ, _ALL),
    "webhook_checks": (_READ, _ALL),
    "webhook_objects": (_READ, _ALL),
    "webhook_subscriptions": (_KEEP, _KEEP),
    "outgoing_events": (_APPEND, _APPEND),
    "deliveries": (_KEEP, _KEEP),
    "delivery_attempts": (_READ, _APPEND),
    "failover_weddings": (_READ, _ALL),
    "vendor_calls": (_READ, _ALL),
    "read_answers": (_KEEP, _ALL),
    "version_pins": (_READ, _ALL),
    "version_migrations": (_READ, _ALL),
    "notification_channels": (_ALL, _ALL),
    "notifications": (_READ, _ALL),
}

#: Rows of the platform: everybody reads them, programs write them.
_SHARED = (
    "services",
    "service_endpoints",
    "circuits",
    "probe_permits",
    "failovers",
    "quota_policies",
    "quotas",
    "vendor_versions",
    "service_health",
    "health_changes",
)


def upgrade() -> None:
    """Create the roles, the tables of every slice, and the rights to them."""
    ensure_roles()
    for name in _SLICES:
        _run((_FOLDER / f"{name}.sql").read_text(encoding="utf-8"))
    _protect()
    create_function("claim_transaction", _CLAIM, app=False)
    create_function("write_projections", "jsonb", app=True)


def downgrade() -> None:
    """Drop everything but the roles, which other databases of the cluster may use."""
    drop_function("write_projections", "jsonb")
    drop_function("claim_transaction", _CLAIM)
    op.execute(f"DROP TABLE {', '.join((*_OWNED, *_SHARED))}")
    op.execute("DROP FUNCTION refuse_change()")
    op.execute("REVOKE ALL ON alembic_version FROM wedsync_app, wedsync_system")
    op.execute("REVOKE USAGE ON SCHEMA public FROM wedsync_app, wedsync_system")


def _run(script: str) -> None:
    # Without parameters the driver leaves `%` as it is and takes several statements at once.
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def _protect() -> None:
    op.execute("GRANT USAGE ON SCHEMA public TO wedsync_app, wedsync_system")
    op.execute("GRANT SELECT ON alembic_version TO wedsync_app, wedsync_system")
    for table, (app, system) in _OWNED.items():
        grant(table, app, system)
        isolate(table, "id" if table == "organizations" else "organization_id")
    for table in _SHARED:
        grant(table, _READ, _ALL)
        publish(table)
