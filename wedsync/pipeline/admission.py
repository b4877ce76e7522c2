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
from wedsync.domain.health.messages import AT_CAPACITY
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Outcome, caller_of, classify_outcome
from wedsync.domain.routing.endpoint_selection import Endpoint, Load
from wedsync.domain.vendors.call import Call
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.versions import selection
from wedsync.domain.versions.selection import Chosen
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.kit.temporal import ClientProvider
from wedsync.pipeline.call_recorder import CallRecorder
from wedsync.pipeline.circuit_breakers import CircuitBreakers
from wedsync.pipeline.endpoint_selector import ORDINARY, EndpointSelector, Situation
from wedsync.pipeline.rate_limiter import RateLimiter
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database

log = structlog.get_logger(__name__)

#: After "all permits are taken" nobody requests one again for so long.
_NO_PERMIT = timedelta(milliseconds=500)
_ROOM_AGAIN_SECONDS = 1.0
_SMOOTHING = 0.2
_MOST_VENUES = 10_000
#: The intent on the record of a call that tried out a version.
TRIAL = "trial"


@dataclass
class Admission:
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
    version: Chosen = selection.UNSPECIFIED
    #: Of the tightest window; None: there is no limit.
    quota_left: int | None = None


@dataclass
class _Measured:
    in_flight: int = 0
    latency_ms: float = 0.0


class AdmissionController:
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
        self.routing_table = RoutingTable(db, manifests, policy=policy, limited=limited, set_up=set_up)
        self.rate_limiter = RateLimiter(db, self.routing_table)
        self.breakers = CircuitBreakers(db, self.routing_table, provide)
        self.call_recorder = CallRecorder(self.breakers)
        #: Ordinary calls under way in this process at most, to one vendor or one business, so that a slow one leaves
        #: others room; 0: no limit.
        self._most_in_flight = most_in_flight
        #: Names this process on permits.
        self.holder = new_id()
        self._measured: dict[tuple[str, str], _Measured] = defaultdict(_Measured)
        self._endpoint_selector = EndpointSelector(
            db, self.routing_table, manifests, self.holder, self._load, has_guards=provide is not None
        )
        #: Calls admitted and not yet recorded, by vendor and, where each is another business, its account.
        self._in_flight_by_place: Counter[tuple[str, str]] = Counter()
        #: The day of each version's last warning.
        self._warned: dict[tuple[str, str], date] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AdmissionController]:
        """Read, listen and write for as long as the block lasts."""
        await self.routing_table.start()
        self.call_recorder.start()
        try:
            yield self
        finally:
            await self.rate_limiter.close()
            await self.call_recorder.close()
            await self.breakers.close()
            await self.routing_table.close()

    async def admit(self, call: Call, situation: Situation = ORDINARY) -> Admission:
        """Admit a call and choose its endpoint.

        Raises VendorUnavailable(reason="circuit_open"), VendorThrottled(reason="at_capacity"), ThrottledUntil, or
        VendorRejected(reason="version_sunset", "version_not_for_weddings" or "endpoint_removed"): nothing was sent.
        """
        place = (call.vendor, call.account if self._manifests[call.vendor].endpoints else "")
        if not situation.is_wedding_day:
            self._require_room(place)
        # Counted from here on: a call that waits for a quota fills the process, too.
        self._in_flight_by_place[place] += 1
        try:
            return await self._admit(call, situation, place)
        except BaseException:
            self._release_room(place)
            raise

    async def _admit(self, call: Call, situation: Situation, place: tuple[str, str]) -> Admission:
        if self._manifests[call.vendor].endpoints:
            # Each business of the generic vendor has its own address, and nobody stands in for it.
            admission = Admission(call.vendor, Endpoint(name=call.account), None, place, situation.is_wedding_day)
            admission.version = self._version(admission, call, situation)
            await self._acquire_quota(admission, call, situation)
            return admission
        config = self.routing_table.config(call.vendor)
        route = await self._endpoint_selector.route(config, call, situation)
        key = (call.vendor, route.endpoint.name)
        admission = Admission(
            call.vendor, route.endpoint, key, place, situation.is_wedding_day, situation.is_trial, probe=route.probe
        )
        try:
            admission.version = self._version(admission, call, situation)
            if route.error is not None:
                self._remember_refused(admission, call, route.error)
                raise route.error
            await self._acquire_quota(admission, call, situation)
        except BaseException:
            # Whatever kept the call from going out, a cancellation too, says nothing about the vendor.
            if admission.probe is not None:
                await self.end_probe(*admission.probe, "ignored")
            raise
        self._measured[key].in_flight += 1
        return admission

    async def endpoint_of(self, call: Call, situation: Situation = ORDINARY) -> Endpoint:
        """Return the endpoint that a call made now would go to."""
        if self._manifests[call.vendor].endpoints:
            return Endpoint(name=call.account)
        return await self._endpoint_selector.endpoint_of(self.routing_table.config(call.vendor), call, situation)

    def _load(self, service: str, endpoint: str) -> Load:
        measured = self._measured[service, endpoint]
        return Load(in_flight=measured.in_flight, latency_ms=measured.latency_ms)

    async def _acquire_quota(self, admission: Admission, call: Call, situation: Situation) -> None:
        try:
            admission.quota_left = await self.rate_limiter.acquire(
                call.vendor, call.account, situation.rank, wedding_id=call.wedding_id
            )
        except ThrottledUntil as error:
            telemetry.record_vendor_call(call.vendor, call.operation, error.code, 0.0)
            self.breakers.quota_exhausted(call.vendor, error.until, self.rate_limiter.now())
            raise

    def _require_room(self, place: tuple[str, str]) -> None:
        in_flight = self._in_flight_by_place[place]
        if self._most_in_flight and in_flight >= self._most_in_flight:
            raise VendorThrottled(
                f"{place[1] or place[0]} has {in_flight} calls under way here; nothing was sent",
                vendor=place[0],
                reason=AT_CAPACITY,
                retry_after_seconds=_ROOM_AGAIN_SECONDS,
            )

    def _release_room(self, place: tuple[str, str]) -> None:
        self._in_flight_by_place[place] -= 1
        if self._in_flight_by_place[place] <= 0:
            del self._in_flight_by_place[place]

    def _version(self, admission: Admission, call: Call, situation: Situation) -> Chosen:
        now = utc_now()
        chosen = selection.resolve(
            self.routing_table.versions(call.vendor),
            self.routing_table.pins(call.vendor),
            organization_id=call.organization_id,
            wedding_id=call.wedding_id,
            at=call.first_sent_at,
            endpoint_version=admission.endpoint.version,
            manifest_version=self._manifests[call.vendor].api_version,
            facts=call.facts,
            requested=situation.version,
            today=now.date(),
        )
        try:
            selection.refuse(call.vendor, chosen, now.date())
        except VendorRejected as error:
            admission.version = chosen
            self._remember_refused(admission, call, error)
            raise
        self._warn(call.vendor, chosen, now)
        return chosen

    def _warn(self, service: str, chosen: Chosen, now: datetime) -> None:
        """Warn of a deprecated version once a day in each process."""
        if chosen.spec is None or (notice := selection.notice_of(service, chosen.spec, now.date())) == "":
            return
        if self._warned.get((service, chosen.name)) != now.date():
            self._warned[service, chosen.name] = now.date()
            left = selection.days_left(chosen.spec, now.date())
            log.warning("version.deprecated", service=service, version=chosen.name, notice=notice, days_left=left)

    def _remember_refused(self, admission: Admission, call: Call, error: WedsyncError) -> None:
        telemetry.record_vendor_call(call.vendor, call.operation, error.reason or error.code, 0.0)
        record = {**_record(admission, call, "send", 0.0), "outcome": error.code, "reason": error.reason}
        self.call_recorder.add(None, "ignored", "", record, is_wedding_day=False)

    async def complete(
        self, admission: Admission, call: Call, intent: str, error: BaseException | None, seconds: float
    ) -> None:
        """Record the outcome of an admitted call: a probe's at once, all others in batches."""
        policy = self.routing_table.policy(admission.service)
        outcome = classify_outcome(error, seconds, policy)
        self._release_room(admission.place)
        if admission.key is not None:
            measured = self._measured[admission.key]
            measured.in_flight -= 1
            if error is None:
                smooth = measured.latency_ms or seconds * 1000
                measured.latency_ms = (1 - _SMOOTHING) * smooth + _SMOOTHING * seconds * 1000
        reason = error.reason if isinstance(error, WedsyncError) else None
        if isinstance(error, VendorThrottled) and error.status is not None:
            self.rate_limiter.block(call.vendor, call.account, error.retry_after_seconds)
        record = {**_record(admission, call, intent, seconds), "outcome": _code(error), "reason": reason}
        counts_for = None if admission.probe is not None or admission.is_trial else admission.key
        caller = caller_of(call)
        self.call_recorder.add(counts_for, outcome, caller, record, is_wedding_day=admission.is_wedding_day)
        if admission.probe is not None:
            await self.end_probe(*admission.probe, outcome, caller)

    async def end_probe(self, circuit: Circuit, slot: int, outcome: Outcome, caller: str = "") -> None:
        """Record a probe's outcome; if that can't be written, its permit lapses and another probes."""
        try:
            await self.breakers.end_probe(circuit, slot, self.holder, outcome, self.routing_table.now(), caller)
        except StoreUnavailable:
            log.warning("probe.outcome_lost", service=circuit.service, endpoint=circuit.endpoint)


def _record(admission: Admission, call: Call, intent: str, seconds: float) -> dict[str, object]:
    return {
        "organization_id": call.organization_id,
        "wedding_id": call.wedding_id,
        "transaction_id": call.transaction_id,
        "step_id": call.step_id,
        "service": admission.service,
        "endpoint": admission.endpoint.name,
        "version": admission.version.name,
        "operation": call.operation,
        "ask": TRIAL if admission.is_trial else intent,
        "duration_ms": round(seconds * 1000, 3),
        "quota_left": admission.quota_left,
        "at": utc_now().isoformat(),
    }


def _code(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    return error.code if isinstance(error, WedsyncError) else "internal"
