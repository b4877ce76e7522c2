"""Notify operators at least once, by log, signed webhook, email or text message."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, WedsyncError
from wedsync.domain.incidents.notice import ChannelKind, Notice, pause_after
from wedsync.domain.outbox.signing import headers_of
from wedsync.domain.vendors.call import Call
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.incidents import notifications as store

log = structlog.get_logger(__name__)

#: The longest time of one attempt, during which nobody else makes one.
TIMEOUT_SECONDS = 15.0
_LEASE = timedelta(seconds=60)
_AT_ONCE = 20
_NOTIFIED = telemetry.meter().create_counter("operator_notices", description="Attempts to tell operators, by outcome")


class Notifier:
    """Sends notifications to operators. Several processes may do so at once: one of them claims each message."""

    def __init__(
        self, gateway: VendorGateway, controller: AdmissionController, http: SsrfSafeHttp, keyring: Keyring
    ) -> None:
        self._gateway = gateway
        self._controller = controller
        self._db = controller.breakers.db
        self._http = http
        self._keyring = keyring

    async def deliver(self, now: datetime) -> int:
        """Make one attempt at each message that is due, at most twenty; return how many. Raises StoreUnavailable."""
        async with self._db.system() as conn:
            claimed = await store.claim(conn, now, _LEASE, _AT_ONCE)
        await asyncio.gather(*(self._attempt(one, now) for one in claimed))
        return len(claimed)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()

    async def _attempt(self, claimed: Any, now: datetime) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                error = await self._send(claimed, Notice.model_validate(claimed.notice))
        except TimeoutError:
            error = f"no answer within {TIMEOUT_SECONDS:g} s"
        except WedsyncError as fault:
            error = fault.detail or fault.code
        except Exception as fault:
            # One message that fails must not keep the others from being sent.
            log.exception("notify.broken", channel=claimed.channel_id)
            error = f"it can't be told ({type(fault).__name__})"
        pause = pause_after(claimed.attempts) if error else None
        outcome = "ok" if not error else "given_up" if pause is None else "failed"
        _NOTIFIED.add(1, {"channel": claimed.kind, "outcome": outcome})
        if error:
            log.warning("notify.failed", channel=claimed.channel_id, kind=claimed.kind, error=error, outcome=outcome)
        async with self._db.system() as conn:
            await store.complete(conn, claimed, now, error[:300] or None, None if pause is None else now + pause)

    async def _send(self, claimed: Any, notice: Notice) -> str:
        """Send one message. Return what went wrong, empty for nothing; raises WedsyncError, which says the same."""
        match claimed.kind:
            case "webhook":
                return await self._post(claimed, notice)
            case "email" | "sms":
                await self._gateway.send(self._call(claimed, notice))
            case _:
                log.warning("operator.notice", **notice.model_dump(mode="json", exclude={"about"}))
        return ""

    async def _post(self, claimed: Any, notice: Notice) -> str:
        body = _body(claimed.id, notice)
        secret = open_secret(self._keyring, claimed.organization_id, claimed.channel_id, claimed.secret)
        reply = await self._http.post(
            claimed.target,
            headers=headers_of(claimed.id, claimed.id, body, [secret], utc_now()),
            body=body,
            timeout_seconds=TIMEOUT_SECONDS,
            owner=claimed.organization_id,
        )
        if reply.status is not None and 200 <= reply.status < 300:
            return ""
        return reply.error or f"answered {reply.status}"

    def _call(self, claimed: Any, notice: Notice) -> Call:
        """Return the same call at each attempt at one vendor; the attempts go round the vendors that are set up."""
        capability: ChannelKind = claimed.kind
        vendors = self._vendors(capability)
        if not vendors:
            raise InvalidInput(f"nobody is set up who sends {capability}", reason="no_vendor")
        vendor = vendors[(claimed.attempts - 1) % len(vendors)]
        spec = self._gateway.manifest(vendor).action(f"{capability}.send")
        assert spec is not None  # noqa: S101 - `_vendors` has seen it
        to = {"id": "operator", "name": "Operator", "email" if capability == "email" else "phone": claimed.target}
        body = {"text": _text(notice)} if capability == "sms" else {"subject": _subject(notice), "text": _text(notice)}
        inputs: dict[str, JsonValue] = {"to": to, **body}
        return Call(
            organization_id=claimed.organization_id,
            wedding_id="",
            transaction_id="",
            step_id="",
            vendor=vendor,
            action=spec.name,
            operation=spec.operations[0].name,
            idempotency_key=claimed.id,
            reference=claimed.id.replace("-", ""),
            inputs=inputs,
            first_sent_at=claimed.created_at,
        )

    def _vendors(self, capability: str) -> list[str]:
        """List the vendors that are set up to send it, those with a closed circuit first."""
        routing_table = self._controller.routing_table
        found = [
            name
            for name in routing_table.services()
            if self._gateway.is_set_up(name)
            and (spec := self._gateway.manifest(name).action(f"{capability}.send")) is not None
            and spec.operations
        ]
        return sorted(
            found,
            key=lambda name: all(
                routing_table.circuit(name, e.name).state != "closed" for e in _ends(routing_table, name)
            ),
        )


def _ends(routing_table: Any, service: str) -> Any:
    return routing_table.config(service).endpoints


def _body(message_id: str, notice: Notice) -> bytes:
    """Return the JSON of a webhook, the same bytes each time."""
    body = notice.model_dump(mode="json", exclude={"about", "kind"})
    content = {"id": message_id, "type": notice.kind, **body}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _subject(notice: Notice) -> str:
    return f"[{notice.severity}] {notice.summary}"


def _text(notice: Notice) -> str:
    return f"{_subject(notice)}\n{notice.kind} at {notice.occurred_at:%Y-%m-%d %H:%M:%S} UTC"


def seal_secret(keyring: Keyring, organization_id: str, channel_id: str, secret: str) -> bytes:
    """Seal a webhook's signing secret for storage, bound to its channel."""
    return keyring.seal(secret.encode(), tenant=organization_id, row=f"notification_channel:{channel_id}")


def open_secret(keyring: Keyring, organization_id: str, channel_id: str, sealed: bytes) -> str:
    """Undo `seal_secret`; raises InvalidInput."""
    return keyring.open(sealed, tenant=organization_id, row=f"notification_channel:{channel_id}").decode()
