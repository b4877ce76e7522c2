"""Receive one inbound webhook: verify it, parse it, record it once, dispatch it; refuse everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.domain.errors import InvalidInput, NotFound, WedsyncError
from wedsync.domain.inbox.clean import clean_event
from wedsync.domain.inbox.messages import Lane
from wedsync.domain.inbox.source import may_post
from wedsync.domain.inbox.token_bucket import Bucket, Limit, acquire
from wedsync.domain.inbox.triage import NewRow, priority_of
from wedsync.domain.value import Value
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.contacts import contact_digest
from wedsync.kit.crypto import Keyring
from wedsync.kit.settings import Settings
from wedsync.pipeline.endpoint_selector import ORDINARY
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db.session import Database
from wedsync.usecases.inbox import metrics
from wedsync.usecases.inbox.record import STORE_TIMEOUT_SECONDS, Recorder
from wedsync.usecases.inbox.sources import DEFAULT_LIMIT, Source, SourceRegistry
from wedsync.usecases.inbox.tally import Tally
from wedsync.vendors.registry import Registry

#: The most contacts of one event that are looked up.
_MAX_CONTACTS = 20
#: Errors of code that reads hostile input.
_MALFORMED = (InvalidInput, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

_log = logs.get(__name__)


class SignatureRefused(WedsyncError):
    """No active secret of the source made this signature, or it is outside its window."""

    code: ClassVar[str] = "webhook_signature"


class AddressRefused(WedsyncError):
    """The source takes messages from other addresses only."""

    code: ClassVar[str] = "webhook_address"


class SourceThrottled(WedsyncError):
    """The source sends faster than its limit."""

    code: ClassVar[str] = "rate_limited"

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class InboundMessage(Value):
    """One request as it came."""

    source: str
    #: Which of the source's connections; empty: the platform's own, or the only one.
    connection: str = ""
    body: bytes
    headers: dict[str, str]
    #: As the source saw it: signatures may cover it.
    url: str
    #: The address that it came from.
    client: str = ""


class Received(Value):
    """One message's receipt."""

    received: bool = True
    #: Of the first event; None for a message without events.
    event_id: str | None
    #: Every event was known before.
    duplicate: bool


class WebhookReceiver:
    """Receives the process's inbound webhooks."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        registry: Registry,
        dispatcher: InboxDispatcher,
        *,
        limit: Limit = DEFAULT_LIMIT,
        store_timeout_seconds: float = STORE_TIMEOUT_SECONDS,
        gateway: VendorGateway | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._pepper = settings.api_key_pepper.get_secret_value()
        self._keyring = Keyring.parse(settings.codec_keys.get_secret_value())
        self._sources = SourceRegistry(settings, db, registry, self._keyring, limit, store_timeout_seconds)
        self._recorder = Recorder(db, store_timeout_seconds)
        self._tally = Tally(db)
        self._buckets: dict[str, Bucket] = {}
        #: Reaches vendors whose signatures are checked against something of theirs (PayPal's certificates).
        self._gateway = gateway

    async def receive(self, message: InboundMessage) -> Received:
        """Receive one message; once this returns, its events are on disk.

        Raises NotFound (no such source), AddressRefused, SignatureRefused, SourceThrottled, InvalidInput (signed, but
        not what the source documents), StoreUnavailable (nothing is recorded, send again).
        """
        try:
            source = await self._sources.find(message.source, message.connection)
        except NotFound as error:
            metrics.REFUSED.add(1, {"source": "unknown", "reason": error.code})
            raise
        try:
            events = await self._read(source, message)
            wanted = [event for event in events if self._is_wanted(source, event)]
            rows = self._rows(source, message, wanted)
            lanes = await self._recorder.record(rows) if rows else {}
        except WedsyncError as error:
            self.count_refusal(source, error.code)
            raise
        for lane in set(lanes.values()):
            self._dispatcher.dispatch(lane)
        self._note(source, wanted, lanes)
        return Received(event_id=events[0].event_id if events else None, duplicate=bool(wanted) and not lanes)

    async def handshake(self, message: InboundMessage, query: Mapping[str, str]) -> tuple[int, str, bytes] | None:
        """Return the answer `(status, content type, body)` to a source that proves our address; None: no handshake.

        Raises NotFound, StoreUnavailable.
        """
        source = await self._sources.find(message.source, message.connection)
        if source.handshake is None:
            return None
        try:
            answer = source.handshake(message.body, message.headers, query, source.handshake_secrets(utc_now()))
        except _MALFORMED:
            return None
        if answer is None or (source.is_handshake_signed and not self._is_authentic(source, message)):
            # Then received as any other message, and refused for its signature.
            return None
        return answer

    def count_refusal(self, source: Source, reason: str) -> None:
        """Count a refused message."""
        metrics.REFUSED.add(1, {"source": source.label, "reason": reason})
        self._tally.add(source.organization_id, source.key, reason)
        _log.info("webhook_refused", source=source.key, reason=reason)

    async def count_too_large(self, path: str, connection: str) -> None:
        """Count a message that was too large to be read."""
        self.count_refusal(await self._sources.find(path, connection), "content_too_large")

    def dispatch(self, lane: Lane) -> None:
        """Have the lane's drain dispatched soon: rows of it are due."""
        self._dispatcher.dispatch(lane)

    async def close(self) -> None:
        """Finish what is being written, counted and dispatched."""
        await self._sources.close()
        await self._recorder.close()
        await self._tally.close()
        await self._dispatcher.close()

    async def _read(self, source: Source, message: InboundMessage) -> list[VendorEvent]:
        if source.config is not None and not may_post(source.config.allowed_networks, message.client):
            raise AddressRefused("this source takes messages from other addresses only")
        prepare, headers, client = source.prepare, message.headers, message.client
        if prepare is not None and self._gateway is not None:
            # No request goes out while what it needs is at hand.
            await self._gateway.query(
                source.vendor,
                "signing_key",
                lambda http, _: prepare(headers, http, client=client),
                ORDINARY,
            )
        if not self._is_authentic(source, message):
            raise SignatureRefused("the signature is not valid")
        # After the signature, so that forgers can't use up the source's limit.
        self._throttle(source)
        try:
            events = [clean_event(event) for event in source.parse(message.body, message.headers)]
        except _MALFORMED as error:
            raise InvalidInput("the body is not what this source sends", field="body") from error
        return events

    def _is_authentic(self, source: Source, message: InboundMessage) -> bool:
        now = utc_now()
        headers: Mapping[str, str] = message.headers
        try:
            return source.verify(message.body, headers, message.url, source.active_secrets(now), now)
        except _MALFORMED:
            # `verify` promises not to raise; should it, the message is not authentic.
            _log.warning("webhook_verify_raised", source=source.key)
            return False

    def _throttle(self, source: Source) -> None:
        bucket = self._buckets.get(source.key)
        self._buckets[source.key], wait_seconds = acquire(bucket, source.limit, time.monotonic())
        if wait_seconds:
            raise SourceThrottled("too many messages from this source", retry_after_seconds=wait_seconds)

    def _rows(self, source: Source, message: InboundMessage, events: Sequence[VendorEvent]) -> list[tuple[str, NewRow]]:
        try:
            return [(source.key, self._row(source, message, event, index == 0)) for index, event in enumerate(events)]
        except _MALFORMED as error:
            raise InvalidInput("the body is not what this source sends", field="body") from error

    def _is_wanted(self, source: Source, event: VendorEvent) -> bool:
        words = source.config.event_types if source.config else ()
        if not words or event.vendor_type in words or event.type in words:
            return True
        self._tally.add(source.organization_id, source.key, "ignored")
        return False

    def _row(self, source: Source, message: InboundMessage, event: VendorEvent, is_first: bool) -> NewRow:
        # A post of many events is kept once, with its first.
        body = message.body if is_first else b""
        digests = (contact_digest(text, self._pepper) for text in event.contacts[:_MAX_CONTACTS])
        return NewRow(
            event=event,
            priority=priority_of(event.type) if source.priority is None else source.priority,
            sealed_body=self._keyring.seal(body, tenant=source.key, row=event.event_id),
            organization_id=source.organization_id,
            replay_key=source.replay_key(message.body, message.headers) if source.replay_key and is_first else None,
            contacts=tuple(digest for digest in digests if digest is not None),
        )

    def _note(self, source: Source, events: Sequence[VendorEvent], lanes: Mapping[tuple[str, str], Lane]) -> None:
        for event in events:
            is_duplicate = (source.key, event.event_id) not in lanes
            metrics.RECEIVED.add(1, {"source": source.label, "duplicate": is_duplicate})
            if is_duplicate:
                self._tally.add(source.organization_id, source.key, "duplicate")
            _log.debug(
                "webhook_received",
                source=source.key,
                event_id=event.event_id,
                type=event.vendor_type,
                duplicate=is_duplicate,
            )
