"""Takes in one inbound webhook: verified, parsed, recorded once, told; everything else is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

from wedsync.domain.errors import InvalidInput, NotFound, StoreUnavailable, WedsyncError
from wedsync.domain.routing.vendor import Value, VendorEvent
from wedsync.domain.webhooks.bucket import Bucket, Limit, take
from wedsync.domain.webhooks.clean import clean_event
from wedsync.domain.webhooks.inbox import NewRow, priority_of
from wedsync.domain.webhooks.messages import Lane
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import VendorHttp
from wedsync.kit.settings import Settings
from wedsync.store import inbox
from wedsync.store.session import Database
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.registry import Registry, WebhookModule
from wedsync.usecases.webhooks import metrics
from wedsync.usecases.webhooks.tell import InboxTeller

#: Per source and process; a flood beyond it is answered with 429, and the source sends again.
DEFAULT_LIMIT = Limit(per_second=2000.0, burst=20_000.0)
#: A database that has not answered by then counts as down: sources wait some 10 s for their answer.
STORE_TIMEOUT_SECONDS = 5.0
#: A longer id is no vendor's, and would not fit an index entry.
MAX_EVENT_ID_LENGTH = 500
#: What code that reads hostile input may stumble over.
_MALFORMED = (InvalidInput, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

#: `(body, headers, query, secrets) -> (status, content type, body)`, or None when the message is no handshake.
Handshake = Callable[[bytes, Mapping[str, str], Mapping[str, str], Sequence[str]], tuple[int, str, bytes] | None]

#: `(headers, http)`: has at hand what `verify` needs; never raises, `verify` then says no.
Prepare = Callable[[Mapping[str, str], VendorHttp], Awaitable[None]]

_log = logs.get(__name__)


class SignatureRefused(WedsyncError):
    """No active secret of the source made this signature, or it is outside its window."""

    code: ClassVar[str] = "webhook_signature"


class SourceThrottled(WedsyncError):
    """The source sends faster than its limit."""

    code: ClassVar[str] = "rate_limited"

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class InboundMessage(Value):
    """One request as it came."""

    source: str
    body: bytes
    headers: dict[str, str]
    #: As the source saw it: signatures may cover it.
    url: str


class Received(Value):
    """The receipt."""

    received: bool = True
    #: Of the first event; None for a message without events.
    event_id: str | None
    #: Every event was known before.
    duplicate: bool


class Reception:
    """The process's desk for inbound webhooks."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        registry: Registry,
        teller: InboxTeller,
        *,
        limit: Limit = DEFAULT_LIMIT,
        store_timeout_seconds: float = STORE_TIMEOUT_SECONDS,
        gateway: VendorGateway | None = None,
    ) -> None:
        self._settings = settings
        self._db = db
        self._registry = registry
        self._teller = teller
        self._limit = limit
        self._store_timeout_seconds = store_timeout_seconds
        self._keyring = Keyring.parse(settings.codec_keys.get_secret_value())
        self._buckets: dict[str, Bucket] = {}
        #: Reaches vendors whose signatures are checked against something of theirs (PayPal's certificates).
        self._gateway = gateway

    async def receive(self, message: InboundMessage) -> Received:
        """Take one message in; once this returns, its events are on disk.

        Raises NotFound (no such source), SignatureRefused, SourceThrottled, InvalidInput (signed, but not what the
        vendor documents), StoreUnavailable (nothing is recorded, send again).
        """
        try:
            await self._prepare(message)
            events = self._read(message)
            lanes = await self._record(message, events)
        except WedsyncError as error:
            is_known = message.source in self._registry.manifests
            metrics.REFUSED.add(1, {"source": message.source if is_known else "unknown", "reason": error.code})
            _log.info("webhook_refused", source=message.source[:64] if is_known else "unknown", reason=error.code)
            raise
        for lane in set(lanes.values()):
            self._teller.tell(lane)
        return _receipt(message.source, events, lanes)

    def handshake(self, message: InboundMessage, query: Mapping[str, str]) -> tuple[int, str, bytes] | None:
        """The answer `(status, content type, body)` to a source that proves our address; None: it is no handshake.

        Asked of the vendor's `webhook.handshake(body, headers, query, secrets)`, where it has one. Raises NotFound.
        """
        shake: Handshake | None = getattr(self._module(message.source), "handshake", None)
        if shake is None:
            return None
        try:
            return shake(message.body, message.headers, query, self._secrets(message.source))
        except _MALFORMED:
            return None

    async def close(self) -> None:
        """Wait for the tells under way."""
        await self._teller.close()

    async def _prepare(self, message: InboundMessage) -> None:
        """Let the vendor's module fetch what its `verify` checks against, where it has a `prepare`."""
        prepare: Prepare | None = getattr(self._module(message.source), "prepare", None)
        if prepare is not None and self._gateway is not None:
            await prepare(message.headers, self._gateway.http(message.source))

    def _module(self, source: str) -> WebhookModule:
        module = self._registry.webhook(source)
        if module is None:
            raise NotFound("no such webhook source")
        return module

    def _secrets(self, source: str) -> tuple[str, ...]:
        return self._settings.vendor_webhook_secrets(source)

    def _read(self, message: InboundMessage) -> list[VendorEvent]:
        module = self._module(message.source)
        if not _is_authentic(module, message, self._secrets(message.source)):
            raise SignatureRefused("the signature is not valid")
        # After the signature, so that forgers can't use up the source's limit.
        self._throttle(message.source)
        try:
            events = [clean_event(event) for event in module.parse(message.body, message.headers)]
        except _MALFORMED as error:
            raise InvalidInput("the body is not what this source sends", field="body") from error
        if not all(0 < len(event.event_id) <= MAX_EVENT_ID_LENGTH for event in events):
            raise InvalidInput("an event has no usable id", field="body")
        return events

    def _throttle(self, source: str) -> None:
        self._buckets[source], wait_seconds = take(self._buckets.get(source), self._limit, time.monotonic())
        if wait_seconds:
            raise SourceThrottled("too many messages from this source", retry_after_seconds=wait_seconds)

    async def _record(self, message: InboundMessage, events: Sequence[VendorEvent]) -> dict[str, Lane]:
        if not events:
            return {}
        rows = [self._row(message, event, is_first=index == 0) for index, event in enumerate(events)]
        try:
            async with asyncio.timeout(self._store_timeout_seconds), self._db.system() as connection:
                return await inbox.record(connection, message.source, rows, utc_now())
        except TimeoutError as error:
            raise StoreUnavailable("the database does not answer", reason="timeout") from error

    def _row(self, message: InboundMessage, event: VendorEvent, *, is_first: bool) -> NewRow:
        # A post of many events is kept once, with its first.
        body = message.body if is_first else b""
        return NewRow(
            event=event,
            priority=priority_of(event.type),
            sealed_body=self._keyring.seal(body, tenant=message.source, row=event.event_id),
        )


def _is_authentic(module: WebhookModule, message: InboundMessage, secrets: Sequence[str]) -> bool:
    headers: Mapping[str, str] = message.headers
    try:
        return module.verify(message.body, headers, message.url, secrets, utc_now())
    except _MALFORMED:
        # `verify` promises not to raise; should it, the message is not authentic.
        _log.warning("webhook_verify_raised", source=message.source)
        return False


def _receipt(source: str, events: Sequence[VendorEvent], lanes: Mapping[str, Lane]) -> Received:
    for event in events:
        is_duplicate = event.event_id not in lanes
        metrics.RECEIVED.add(1, {"source": source, "duplicate": is_duplicate})
        _log.info(
            "webhook_received", source=source, event_id=event.event_id, type=event.vendor_type, duplicate=is_duplicate
        )
    return Received(event_id=events[0].event_id if events else None, duplicate=bool(events) and not lanes)
