"""Builds a row of each table, for tests of who may see and write what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)

_WEDDING: dict[str, Any] = {
    "reference": "w",
    "status": "planned",
    "phase": "preparation",
    "mode": "normal",
    "ceremony_local": "2027-06-19T16:00",
    "zone": "Europe/Rome",
    "ceremony_at": NOW,
    "plan_version": 1,
    "created_at": NOW,
    "updated_at": NOW,
}

_SERVICE: dict[str, Any] = {"service": "stripe", "endpoint": "default"}
_CALL: dict[str, Any] = {
    **_SERVICE,
    "transaction_id": "t",
    "step_id": "s",
    "version": "1",
    "operation": "take",
    "ask": "send",
    "outcome": "ok",
    "duration_ms": 1.0,
    "at": NOW,
}
#: A row of each of the platform's tables.
PLATFORM_ROWS: dict[str, dict[str, Any]] = {
    "services": {"service": "stripe", "config": {}, "version": 1, "updated_at": NOW, "updated_by": "key:1"},
    "service_endpoints": {
        "service": "stripe",
        "name": "default",
        "position": 0,
        "base_url": "",
        "version": "",
        "region": "",
        "weight": 1,
        "capacity": 0,
    },
    "circuits": {**_SERVICE, "state": "closed", "window": []},
    "probe_permits": {**_SERVICE, "round": 1, "slot": 0},
    "failovers": {
        "id": "f-ours",
        "from_service": "stripe",
        "endpoint": "default",
        "epoch": 1,
        "reason": "failure_rate",
        "strategy": "immediate",
        "status": "active",
        "actor": "breaker",
        "estimated_downtime_ms": 1,
        "rollback_plan": [],
        "started_at": NOW,
    },
    "service_health": {
        "service": "stripe",
        "status": "healthy",
        "since": NOW,
        "error_rate": 0,
        "response_ms": 0,
        "due_at": NOW,
    },
    "vendor_versions": {"service": "stripe", "name": "2", "spec": {}, "updated_at": NOW, "updated_by": "key:1"},
    "health_changes": {"service": "stripe", "status": "healthy", "at": NOW, "error_rate": 0, "response_ms": 0},
    "quota_policies": {"service": "stripe", "account": "default", "policy": {}, "updated_at": NOW, "updated_by": "t"},
    "quotas": {"service": "stripe", "account": "default", "version": 1, "nonce": "n", "state": {}},
}

_OWN: dict[str, Any] = {"organization_id": "{organization}"}
_OF_WEDDING: dict[str, Any] = {**_OWN, "wedding_id": "{wedding}"}
#: The same with whose each is left open.
_ROWS: dict[str, dict[str, Any]] = {
    **PLATFORM_ROWS,
    "failover_weddings": {**_OF_WEDDING, "failover_id": "f-ours", "ceremony_at": NOW},
    "vendor_calls": {**_CALL, **_OF_WEDDING},
    "organizations": {"id": "{organization}", "name": "Studio", "created_at": NOW},
    "api_keys": {
        "id": "k-{organization}",
        **_OWN,
        "name": "key",
        "key_hmac": b"{organization}",
        "created_at": NOW,
    },
    "audit_log": {
        **_OWN,
        "at": NOW,
        "actor": "key:1",
        "action": "a",
        "subject": "s",
        "detail": {},
    },
    "idempotency_keys": {**_OWN, "key": "k", "fingerprint": "f", "created_at": NOW},
    "weddings": {**_WEDDING, "id": "{wedding}", **_OWN},
    "plans": {**_OF_WEDDING, "version": 1, "body": {}, "created_at": NOW},
    "transactions": {
        **_OF_WEDDING,
        "id": "t-{organization}",
        "kind": "orchestrate",
        "status": "running",
        "gaps": [],
        "request": {},
        "step_ids": [],
        "requested_at": NOW,
    },
    "steps": {
        **_OF_WEDDING,
        "step_id": "s",
        "position": 0,
        "service": "s",
        "capability": "sms",
        "action": "sms.send",
        "status": "pending",
    },
    "notification_channels": {
        "id": "ch-{organization}",
        **_OWN,
        "name": "on call",
        "kind": "log",
        "target": "",
        "events": [],
        "least_severity": 0,
        "dedup_seconds": 300,
        "created_at": NOW,
        "created_by": "key:1",
    },
    "notifications": {
        "id": "n-{organization}",
        **_OWN,
        "channel_id": "ch-{organization}",
        "dedup_key": "health.changed stripe",
        "notice": {},
        "created_at": NOW,
        "due_at": NOW,
    },
    "version_pins": {
        **_OWN,
        "service": "stripe",
        "version": "2",
        "since": NOW,
        "pinned_by": "key:1",
    },
    "version_migrations": {
        "id": "m-{organization}",
        **_OWN,
        "service": "stripe",
        "stage": "shadow",
        "state": {},
        "started_at": NOW,
        "started_by": "key:1",
    },
    "read_answers": {
        **_OWN,
        "question": "q",
        "vendor": "open_meteo",
        "facts": {},
        "answered_at": NOW,
    },
    "external_refs": {
        **_OF_WEDDING,
        "vendor": "stripe",
        "account": "default",
        "object_id": "o",
        "step_id": "s",
        "transaction_id": "t",
        "created_at": NOW,
    },
    "wedding_events": {**_OF_WEDDING, "id": 1, "type": "step", "data": {}, "created_at": NOW},
    "inbox": {
        **_OWN,
        "source": "stripe",
        "event_id": "e-{organization}",
        "event": {"source": "stripe", "event_id": "e", "type": "other", "vendor_type": "x"},
        "body": b"",
        "received_at": NOW,
    },
    "webhook_subscriptions": {
        "id": "sub-{organization}",
        **_OWN,
        "url": "https://partner.test/",
        "event_types": ["*"],
        "filters": {},
        "secrets": b"",
        "api_version": "2026-11-01",
        "payload": "full",
        "max_attempts": 8,
        "backoff": "exponential",
        "created_at": NOW,
        "updated_at": NOW,
    },
    "outgoing_events": {
        **_OF_WEDDING,
        "id": "evt-{organization}",
        "type": "webhook.test",
        "data": {},
        "occurred_at": NOW,
    },
    "deliveries": {
        **_OF_WEDDING,
        "id": "d-{organization}",
        "subscription_id": "sub-{organization}",
        "event_id": "evt-{organization}",
        "due_at": NOW,
        "created_at": NOW,
    },
    "delivery_attempts": {
        **_OWN,
        "delivery_id": "d-{organization}",
        "number": 1,
        "at": NOW,
        "duration_ms": 1,
    },
    "webhook_sources": {
        "id": "whs-{organization}",
        **_OWN,
        "name": "weather",
        "path": "weather-{organization}",
        "state": "active",
        "config": {},
        "created_at": NOW,
        "updated_at": NOW,
    },
    "webhook_secrets": {
        "id": "s-{organization}",
        **_OWN,
        "source_id": "whs-{organization}",
        "sealed": b"",
        "created_at": NOW,
    },
    "webhook_counts": {
        **_OWN,
        "source": "whs-{organization}",
        "reason": "duplicate",
        "hour": NOW,
        "count": 1,
    },
    "webhook_checks": {
        **_OWN,
        "source": "whs-{organization}",
        "checked_until": NOW,
        "checked_at": NOW,
        "looked_at": 1,
        "gaps": 0,
    },
    "contact_refs": {**_OF_WEDDING, "digest": b"d", "contact_id": "c", "created_at": NOW},
    "webhook_objects": {
        **_OWN,
        "source": "whs-{organization}",
        "object_id": "o",
        "topic": "payment",
        "occurred_at": NOW,
        "event_id": "e",
    },
}


def row_of(table: str, organization_id: str, wedding_id: str | None = None) -> dict[str, Any]:
    """Build a row of `organization_id`; every id in it says whose it is."""
    whose = {"{organization}": organization_id, "{wedding}": wedding_id or f"w-{organization_id}"}

    def filled(value: Any) -> Any:
        for mark, name in whose.items():
            if isinstance(value, str):
                value = value.replace(mark, name)
            elif isinstance(value, bytes):
                value = value.replace(mark.encode(), name.encode())
        return value

    return {column: filled(value) for column, value in _ROWS[table].items()}
