"""Give a vendor's stand-in its foundation: its state, its ledger, its idempotency keys and its webhooks.

A stand-in is `wedsync/vendors/<name>/sandbox.py` with one function `build(context: FakeContext) -> StandIn`. It never
imports the vendor's client: the two agree only by the vendor's published contract.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: Set by the pipeline, in the local environment only, so that faults and ledgers can name weddings and steps.
WEDDING_HEADER = "x-wedsync-wedding"
STEP_HEADER = "x-wedsync-step"

SendWebhook = Callable[[str, dict[str, str], bytes, float], None]


@dataclass
class LedgerEntry:
    """One effect that the vendor holds."""

    object_id: str
    operation: str
    idempotency_key: str | None
    wedding_id: str | None
    step_id: str | None
    amount_minor: int | None
    currency: str | None
    state: Literal["active", "undone"]
    created_at: datetime
    #: The account within the vendor (the business, for `generic`).
    account: str = "default"


@dataclass
class _Remembered:
    fingerprint: str
    status: int
    headers: dict[str, str]
    body: bytes
    at: datetime


@dataclass
class FakeContext:
    """One stand-in's context: everything it remembers and can do besides answering."""

    vendor: str
    #: The sandbox's movable clock.
    now: Callable[[], datetime]
    #: `send(url, headers, body, delay_seconds)`: posts later, in the background, and tries again on failure.
    send: SendWebhook
    #: The address at our API for this vendor's webhooks.
    webhook_url: str
    #: The secret that this vendor signs with.
    webhook_secret: str
    #: How long after the action a webhook is sent, unless the stand-in knows better.
    webhook_delay_seconds: float = 0.05
    ledger: list[LedgerEntry] = field(default_factory=list)
    #: The vendor's objects by id, in whatever shape the stand-in likes.
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    _keys: dict[str, _Remembered] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def reset(self) -> None:
        """Forget everything."""
        self.ledger.clear()
        self.objects.clear()
        self._keys.clear()
        self._locks.clear()

    def record(
        self,
        request: Request,
        object_id: str,
        operation: str,
        *,
        idempotency_key: str | None = None,
        amount_minor: int | None = None,
        currency: str | None = None,
        account: str = "default",
    ) -> LedgerEntry:
        """Record an effect in the ledger."""
        entry = LedgerEntry(
            object_id=object_id,
            operation=operation,
            idempotency_key=idempotency_key,
            wedding_id=request.headers.get(WEDDING_HEADER),
            step_id=request.headers.get(STEP_HEADER),
            amount_minor=amount_minor,
            currency=currency,
            state="active",
            created_at=self.now(),
            account=account,
        )
        self.ledger.append(entry)
        return entry

    def undo(self, object_id: str) -> None:
        """Mark the effect(s) on `object_id` as undone."""
        for entry in self.ledger:
            if entry.object_id == object_id:
                entry.state = "undone"

    async def idempotent(
        self,
        key: str | None,
        fingerprint: bytes,
        life: timedelta,
        answer: Callable[[], Awaitable[Response]],
        conflict: Callable[[], Response],
    ) -> Response:
        """Answer once per `key` for `life`; replay the same answer, errors too; `conflict()` for another body.

        Two requests with one key at once get their answers one after the other.
        """
        if not key:
            return await answer()
        digest = hashlib.sha256(fingerprint).hexdigest()
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._keys.get(key)
            if known is not None and self.now() - known.at < life:
                if known.fingerprint != digest:
                    return conflict()
                return Response(known.body, known.status, {**known.headers, "idempotent-replayed": "true"})
            response = await answer()
            kept = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
            self._keys[key] = _Remembered(digest, response.status_code, kept, bytes(response.body), self.now())
            return response


@dataclass
class StandIn:
    """A vendor's stand-in, mounted by the sandbox under `/{vendor}`.

    Each route's `name` is the operation it serves, by the manifest's name where the manifest has one: faults and
    the request log speak in these names.
    """

    routes: Sequence[Route]
    #: The vendor's own refusal of an operation (a declined card, a taken date), for the fault `refuse`;
    #: None where the vendor would not refuse (a cancellation, a read): the request then goes through.
    refuse: Callable[[str, Request], Response | None]
    #: `emit(event, object_id, bad_signature) -> (url, headers, body)`: a signed webhook about an object, on demand.
    #: `event` is the vendor's own type. Raises KeyError for an unknown object.
    emit: Callable[[str, str | None, bool], tuple[str, dict[str, str], bytes]] | None = None
