"""Decide which endpoint a call goes to and whether it may go out at all, and record its outcome."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import structlog

from wedsync.domain.errors import (
    StoreUnavailable,
    ThrottledUntil,
    VendorRejected,
    VendorThrottled,
    WedsyncError,
)
from wedsync.domain.routing import versions
from wedsync.domain.routing.circuit import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.messages import AT_CAPACITY
from wedsync.domain.routing.strategy import Endpoint, Load
from wedsync.domain.routing.vendor import Call, Manifest
from wedsync.domain.routing.versions import Chosen
from wedsync.domain.routing.window import Outcome, classify_outcome
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.store.session import Database
from wedsync.usecases.routing.book import Book
from wedsync.usecases.routing.outcomes import Outcomes
from wedsync.usecases.routing.quotas import QuotaDesk
from wedsync.usecases.routing.route import ORDINARY, Router, Situation
from wedsync.usecases.routing.transitions import ClientProvider, Transitions

log = structlog.get_logger(__name__)

#: After "all permits are taken" nobody requests one again for so long.
_NO_PERMIT = timedelta(milliseconds=500)
_ROOM_AGAIN_SECONDS = 1.0
_SMOOTHING = 0.2
_MOST_VENUES = 10_000
#: The intent on the record of a call that tried out a version.
TRIAL = "trial"


@dataclass
class Ticket:
    """One call's admission."""

    service: str
    endpoint: Endpoint
    #: None: no circuit counts it.
    key: tuple[str, str] | None
    #: The group of calls under way that it counts in.
    place: tuple[str, str]
    is_wedding_day: bool = False
    #: It is recorded, and counts for no circuit.
    is_trial: bool = False
    #: The epoch and slot of the permit with which a probe went out.
    probe: tuple[Circuit, int] | None = None
    version: Chosen = versions.UNSAID
    #: Of the tightest window; None: there is no limit.
    quota_left: int | None = None


@dataclass
class _Measured:
    in_flight: int = 0
    latency_ms: float = 0.0


class Switchboard:
    """Admits the process's calls and records their outcomes."""

    def __init__(
        self,
        db: Database,
        manifests: Mapping[str, Manifest],
        provide: ClientProvider | None = None,
        *,
        policy: CircuitPolicy | None = None,
        most_in_flight: int = 0,
        limited: Collection[str] = (),
        set_up: Collection[str] | None = None,
    ) -> None:
        self._db = db
        self._manifests = manifests
        self.book = Book(db, manifests, policy=policy, limited=limited, set_up=set_up)
        self.quotas = QuotaDesk(db, self.book)
        self.transitions = Transitions(db, self.book, provide)
        self.outcomes = Outcomes(self.transitions)
        #: Ordinary calls under way in this process at most, to one vendor or one business, so that a slow one leaves
        #: others room; 0: no limit.
        self._most_in_flight = most_in_flight
        #: Names this process on permits.
        self.holder = new_id()
        self._measured: dict[tuple[str, str], _Measured] = defaultdict(_Measured)
        self._router = Router(db, self.book, manifests, self.holder, self._load)
        #: Calls admitted and not yet recorded, by vendor and, where each is another business, its account.
        self._under_way: Counter[tuple[str, str]] = Counter()
        #: The day of each version's last warning.
        self._warned: dict[tuple[str, str], date] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Switchboard]:
        """Read, listen and write for as long as the block lasts."""
        await self.book.start()
        self.outcomes.start()
        try:
            yield self
        finally:
            await self.quotas.close()
            await self.outcomes.close()
            await self.transitions.close()
            await self.book.close()

    async def admit(self, call: Call, situation: Situation = ORDINARY) -> Ticket:
        """Admit a call and choose its endpoint.

        Raises VendorUnavailable(reason="circuit_open"), VendorThrottled(reason="at_capacity"), ThrottledUntil, or
        VendorRejected(reason="version_sunset", "version_not_for_weddings" or "endpoint_removed"): nothing was sent.
        """
        place = (call.vendor, call.account if self._manifests[call.vendor].endpoints else "")
        if not situation.is_wedding_day:
            self._keep_room(place)
        # Counted from here on: a call that waits for a quota fills the process, too.
        self._under_way[place] += 1
        try:
            return await self._let_in(call, situation, place)
        except BaseException:
            self._make_room(place)
            raise

    async def _let_in(self, call: Call, situation: Situation, place: tuple[str, str]) -> Ticket:
        if self._manifests[call.vendor].endpoints:
            # Each business of the generic vendor has its own address, and nobody stands in for it.
            ticket = Ticket(call.vendor, Endpoint(name=call.account), None, place, situation.is_wedding_day)
            ticket.version = self._version(ticket, call, situation)
            await self._take_quota(ticket, call, situation)
            return ticket
        config = self.book.config(call.vendor)
        way = await self._router.route(config, call, situation)
        key = (call.vendor, way.endpoint.name)
        ticket = Ticket(
            call.vendor, way.endpoint, key, place, situation.is_wedding_day, situation.is_trial, probe=way.probe
        )
        try:
            ticket.version = self._version(ticket, call, situation)
            if way.error is not None:
                self._remember_refused(ticket, call, way.error)
                raise way.error
            await self._take_quota(ticket, call, situation)
        except BaseException:
            # Whatever kept the call from going out, a cancellation too, says nothing about the vendor.
            if ticket.probe is not None:
                await self.end_probe(*ticket.probe, "ignored")
            raise
        self._measured[key].in_flight += 1
        return ticket

    async def endpoint_of(self, call: Call, situation: Situation = ORDINARY) -> Endpoint:
        """Return the endpoint that a call made now would go to."""
        if self._manifests[call.vendor].endpoints:
            return Endpoint(name=call.account)
        return await self._router.endpoint_of(self.book.config(call.vendor), call, situation)

    def _load(self, service: str, endpoint: str) -> Load:
        measured = self._measured[service, endpoint]
        return Load(in_flight=measured.in_flight, latency_ms=measured.latency_ms)

    async def _take_quota(self, ticket: Ticket, call: Call, situation: Situation) -> None:
        try:
            ticket.quota_left = await self.quotas.take(
                call.vendor, call.account, situation.rank, wedding_id=call.wedding_id
            )
        except ThrottledUntil as error:
            telemetry.record_vendor_call(call.vendor, call.operation, error.code, 0.0)
            self.transitions.quota_exhausted(call.vendor, error.until, self.quotas.now())
            raise

    def _keep_room(self, place: tuple[str, str]) -> None:
        under_way = self._under_way[place]
        if self._most_in_flight and under_way >= self._most_in_flight:
            raise VendorThrottled(
                f"{place[1] or place[0]} has {under_way} calls under way here; nothing was sent",
                vendor=place[0],
                reason=AT_CAPACITY,
                retry_after_seconds=_ROOM_AGAIN_SECONDS,
            )

    def _make_room(self, place: tuple[str, str]) -> None:
        self._under_way[place] -= 1
        if self._under_way[place] <= 0:
            del self._under_way[place]

    def _version(self, ticket: Ticket, call: Call, situation: Situation) -> Chosen:
        now = utc_now()
        chosen = versions.resolve(
            self.book.versions(call.vendor),
            self.book.pins(call.vendor),
            organization_id=call.organization_id,
            wedding_id=call.wedding_id,
            at=call.first_sent_at,
            endpoint_version=ticket.endpoint.version,
            manifest_version=self._manifests[call.vendor].api_version,
            facts=call.facts,
            asked=situation.version,
            today=now.date(),
        )
        try:
            versions.refuse(call.vendor, chosen, now.date())
        except VendorRejected as error:
            ticket.version = chosen
            self._remember_refused(ticket, call, error)
            raise
        self._warn(call.vendor, chosen, now)
        return chosen

    def _warn(self, service: str, chosen: Chosen, now: datetime) -> None:
        """Warn of a deprecated version once a day in each process."""
        if chosen.spec is None or (notice := versions.notice_of(service, chosen.spec, now.date())) == "":
            return
        if self._warned.get((service, chosen.name)) != now.date():
            self._warned[service, chosen.name] = now.date()
            left = versions.days_left(chosen.spec, now.date())
            log.warning("version.deprecated", service=service, version=chosen.name, notice=notice, days_left=left)

    def _remember_refused(self, ticket: Ticket, call: Call, error: WedsyncError) -> None:
        telemetry.record_vendor_call(call.vendor, call.operation, error.reason or error.code, 0.0)
        record = {**_record(ticket, call, "send", 0.0), "outcome": error.code, "reason": error.reason}
        self.outcomes.add(None, "ignored", record, is_wedding_day=False)

    async def settle(self, ticket: Ticket, call: Call, ask: str, error: BaseException | None, seconds: float) -> None:
        """Record the outcome of an admitted call: a probe's at once, all others in batches."""
        policy = self.book.policy(ticket.service)
        outcome = classify_outcome(error, seconds, policy)
        self._make_room(ticket.place)
        if ticket.key is not None:
            measured = self._measured[ticket.key]
            measured.in_flight -= 1
            if error is None:
                smooth = measured.latency_ms or seconds * 1000
                measured.latency_ms = (1 - _SMOOTHING) * smooth + _SMOOTHING * seconds * 1000
        reason = error.reason if isinstance(error, WedsyncError) else None
        if isinstance(error, VendorThrottled) and error.status is not None:
            self.quotas.block(call.vendor, call.account, error.retry_after_seconds)
        record = {**_record(ticket, call, ask, seconds), "outcome": _code(error), "reason": reason}
        counts_for = None if ticket.probe is not None or ticket.is_trial else ticket.key
        self.outcomes.add(counts_for, outcome, record, is_wedding_day=ticket.is_wedding_day)
        if ticket.probe is not None:
            await self.end_probe(*ticket.probe, outcome)

    async def end_probe(self, circuit: Circuit, slot: int, outcome: Outcome) -> None:
        """Record a probe's outcome; if that can't be written, its permit lapses and another probes."""
        try:
            await self.transitions.end_probe(circuit, slot, self.holder, outcome, self.book.now())
        except StoreUnavailable:
            log.warning("probe.outcome_lost", service=circuit.service, endpoint=circuit.endpoint)


def _record(ticket: Ticket, call: Call, ask: str, seconds: float) -> dict[str, object]:
    return {
        "organization_id": call.organization_id,
        "wedding_id": call.wedding_id,
        "transaction_id": call.transaction_id,
        "step_id": call.step_id,
        "service": ticket.service,
        "endpoint": ticket.endpoint.name,
        "version": ticket.version.name,
        "operation": call.operation,
        "ask": TRIAL if ticket.is_trial else ask,
        "duration_ms": round(seconds * 1000, 3),
        "quota_left": ticket.quota_left,
        "at": utc_now().isoformat(),
    }


def _code(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    return error.code if isinstance(error, WedsyncError) else "internal"
