"""Change a circuit's state: one transition of the fleet at a time, with its failover's record, and start its guard."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.health.messages import RECOVER_VENDOR_WORKFLOW, WAKE_SIGNAL, RecoveryStart, recovery_workflow_id
from wedsync.domain.health.status import by_circuits
from wedsync.domain.incidents import notice as incidents_notice
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing import failover as rules_of_failover
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Outcome, total
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.kit import telemetry
from wedsync.kit.ids import new_id
from wedsync.kit.temporal import AWAY, RPC_TIMEOUT, ClientProvider
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.health import queries as health
from wedsync.store.incidents import notifications
from wedsync.store.routing import circuits, failovers

log = structlog.get_logger(__name__)

#: `change(circuit, is_last)`: return the circuit's new state.
Change = Callable[[Circuit, bool], Circuit]
Before = Callable[[AsyncConnection], Awaitable[bool]]
After = Callable[[AsyncConnection, "Moved"], Awaitable[None]]

#: The reason of a circuit that its probes opened, not a call.
PROBES_SAY_DOWN = "probes_say_down"
_CLOSE_SECONDS = 2.0
#: A guard that was started has woken by then.
_FIRST_WAKE = timedelta(minutes=1)
_LONG_WAIT = timedelta(seconds=60)
_TRANSITIONS = telemetry.meter().create_counter("circuit_transitions", description="Transitions of circuits")


@dataclass(frozen=True)
class Moved:
    """A circuit before and after a transition; both are the same when none was made."""

    was: Circuit
    now_is: Circuit
    #: The failover that began with it.
    failover_id: str | None = None

    @property
    def has_moved(self) -> bool:
        """Tell whether this caller made a transition."""
        return self.was != self.now_is


class CircuitBreakers:
    """Makes the process's transitions."""

    def __init__(self, db: Database, routing_table: RoutingTable, provide: ClientProvider | None = None) -> None:
        self.db = db
        self.routing_table = routing_table
        self._provide = provide
        self._tasks: set[asyncio.Task[Any]] = set()
        #: When operators were last notified about a vendor's quota.
        self._exhausted: dict[str, datetime] = {}

    async def close(self) -> None:
        """Wait a moment for the notifications that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def apply(
        self,
        service: str,
        endpoint: str,
        change: Change,
        now: datetime,
        *,
        actor: str = "breaker",
        before: Before | None = None,
        after: After | None = None,
    ) -> Moved:
        """Compare and set. Of several callers with the same wish, one makes the transition and starts the guard.

        `before` runs first in the same transaction; when it answers False nothing is changed. `after` runs last in it
        and gets the result. Raises StoreUnavailable, and what `change` and `after` raise.
        """
        async with self.db.system() as conn:
            moved = await self._move(conn, service, endpoint, change, now, actor, before)
            if after is not None:
                await after(conn, moved)
        if moved.has_moved:
            self.routing_table.learn(moved.now_is)
            self._log_transition(moved.was, moved.now_is, actor)
        if moved.failover_id is not None:
            # Nobody waits for Temporal: the health watch starts what could not be started.
            self._soon(self.start_recovery(moved.failover_id, moved.now_is, now))
        return moved

    async def _move(
        self,
        conn: AsyncConnection,
        service: str,
        endpoint: str,
        change: Change,
        now: datetime,
        actor: str,
        before: Before | None,
    ) -> Moved:
        await circuits.lock_transitions(conn)
        known = await circuits.read_all(conn)
        was = await circuits.lock_one(conn, service, endpoint)
        if before is not None and not await before(conn):
            return Moved(was, was)
        now_is = change(was, self.routing_table.is_last(service, endpoint, known))
        if now_is != was:
            now_is = await self._as_configured(conn, was, now_is, now)
        if now_is == was or not await circuits.move(conn, was, now_is, self.routing_table.policy(service).probes):
            return Moved(was, was)
        await self._note(conn, was, now_is, known, now)
        return Moved(was, now_is, await self._account(conn, was, now_is, known, actor, now))

    async def _note(
        self, conn: AsyncConnection, was: Circuit, now_is: Circuit, known: list[Circuit], now: datetime
    ) -> None:
        """Write into the vendor's history when its circuits let nothing through, and when they do again."""
        states = {circuit.endpoint: circuit.state for circuit in known if circuit.service == was.service}
        names = [endpoint.name for endpoint in self.routing_table.config(was.service).endpoints]
        before = by_circuits([{**states, was.endpoint: was.state}.get(name, "closed") for name in names])
        after = by_circuits([{**states, was.endpoint: now_is.state}.get(name, "closed") for name in names])
        if before != after:
            calls = total(was.window)
            rate = calls.failed / calls.calls if calls.calls else 0.0
            await health.note_circuits(
                conn, was.service, before, after, now, error_rate=rate, detail=now_is.reason if after == "down" else ""
            )

    async def _as_configured(self, conn: AsyncConnection, was: Circuit, now_is: Circuit, now: datetime) -> Circuit:
        policy = self.routing_table.config(now_is.service).failover
        noisy = None
        if now_is.state != "closed" and rules_of_failover.waits_for_quiet(now_is, policy):
            ceremonies = await failovers.ceremonies_near(conn, now_is.service, now)
            noisy = rules_of_failover.noisy_time(ceremonies, now)
        return rules_of_failover.as_configured(was, now_is, policy, noisy)

    def _log_transition(self, was: Circuit, now_is: Circuit, actor: str) -> None:
        if was.state == now_is.state and was.round == now_is.round:
            return
        _TRANSITIONS.add(1, {"service": was.service, "from": was.state, "to": now_is.state})
        log.warning(
            "circuit.moved",
            service=was.service,
            endpoint=was.endpoint,
            was=was.state,
            now_is=now_is.state,
            epoch=now_is.epoch,
            round=now_is.round,
            reason=now_is.reason,
            actor=actor,
        )

    async def _account(
        self, conn: AsyncConnection, was: Circuit, now_is: Circuit, known: list[Circuit], actor: str, now: datetime
    ) -> str | None:
        """Keep the failover's record in step; return the id of one that begins."""
        if now_is.epoch != was.epoch:
            return await self._begin(conn, now_is, known, actor, "active", now)
        where = (now_is.service, now_is.endpoint, now_is.epoch)
        if now_is.state == "closed":
            if was.state != "closed":
                await failovers.set_status(conn, *where, "restored", now)
                await notifications.announce(conn, incidents_notice.failover_ended("failover.restored", where, now))
        elif _is_held(now_is):
            await failovers.set_status(conn, *where, "held", now)
            if not _is_held(was):
                await notifications.announce(conn, incidents_notice.failover_ended("failover.held", where, now))
        else:
            status = "restoring" if now_is.state == "ramping" else "active"
            fell_back = int(was.state == "ramping" and now_is.state == "open")
            await failovers.set_status(conn, *where, status, now, fell_back=fell_back)
        return None

    async def _begin(
        self, conn: AsyncConnection, circuit: Circuit, known: list[Circuit], actor: str, status: str, now: datetime
    ) -> str | None:
        config = self.routing_table.config(circuit.service)
        backup = next(iter(self.routing_table.available_backups(circuit.service, known)), None)
        past = await failovers.past_downtimes_ms(conn, circuit.service)
        recorded = "held" if _is_held(circuit) else status
        record = {
            "id": new_id(),
            "from_service": circuit.service,
            "endpoint": circuit.endpoint,
            "epoch": circuit.epoch,
            "to_service": backup,
            "reason": circuit.reason,
            "strategy": config.failover.strategy,
            "status": recorded,
            "actor": actor,
            "estimated_downtime_ms": rules_of_failover.estimated_downtime_ms(circuit, now, config.circuit, past),
            "rollback_plan": rules_of_failover.rollback_plan(circuit.service, backup, config.circuit),
        }
        failover_id = await failovers.begin(conn, record, now)
        if failover_id is not None:
            notice = incidents_notice.failover_started(
                circuit.service, circuit.endpoint, backup, circuit.reason, recorded, circuit.epoch, now
            )
            await notifications.announce(conn, notice)
        return failover_id

    async def trip(
        self, service: str, endpoint: str, now: datetime, *, is_wedding_day: bool = False, is_down: bool = False
    ) -> Moved | None:
        """Leave a failing endpoint, as its operator configured; None: nothing is to be done.

        Its window must say so, or `is_down`: its probes have.
        """
        policy = self.routing_table.policy(service, is_wedding_day=is_wedding_day)
        if self.routing_table.is_last(service, endpoint):
            await self._hasten_backups(service, now)
            return None
        strategy = self.routing_table.config(service).failover.strategy
        if strategy == "manual":
            await self._propose(service, endpoint, now, is_down=is_down)
            return None

        def change(circuit: Circuit, last: bool) -> Circuit:
            if is_down and not last and circuit.state == "closed" and circuit.forced is None:
                return rules.opened(circuit, now, policy, PROBES_SAY_DOWN)
            return rules.judged(circuit, now, policy, is_last=last, gradually=strategy == "gradual")

        return await self.apply(service, endpoint, change, now, actor="health" if is_down else "breaker")

    async def _propose(self, service: str, endpoint: str, now: datetime, *, is_down: bool) -> None:
        """Record that a person should leave the vendor."""
        async with self.db.system() as conn:
            known = await circuits.read_all(conn)
            circuit = await circuits.lock_one(conn, service, endpoint)
            policy = self.routing_table.policy(service)
            why = PROBES_SAY_DOWN if is_down else rules.verdict(circuit, policy)
            if not why or circuit.state != "closed":
                return
            as_if = rules.opened(circuit, now, policy, why)
            failover_id = await self._begin(conn, as_if, known, "breaker", "proposed", now)
        if failover_id is not None:
            log.warning("failover.proposed", service=service, endpoint=endpoint, reason=why)
            await self.describe(failover_id, service, now)

    async def _hasten_backups(self, service: str, now: datetime) -> None:
        """Have whoever stands in for the last provider probed again soon."""
        for backup in filter(self.routing_table.is_set_up, self.routing_table.config(service).backups):
            for endpoint in self.routing_table.config(backup).endpoints:
                known = self.routing_table.circuit(backup, endpoint.name)
                hasten = functools.partial(_hastened, now=now, policy=self.routing_table.policy(backup))
                if hasten(known, False) != known:
                    await self.apply(backup, endpoint.name, hasten, now)

    async def end_probe(
        self, circuit: Circuit, slot: int, holder: str, outcome: Outcome, now: datetime, caller: str = ""
    ) -> Moved:
        """Record a probe's outcome: it counts once, in its own epoch. Raises StoreUnavailable.

        `caller`: whose call it was; empty: the vendor's own health probe.
        """
        policy = self.routing_table.policy(circuit.service)
        recorded = None if outcome == "ignored" else outcome

        async def mine(conn: AsyncConnection) -> bool:
            return await circuits.end_permit(conn, circuit, slot, holder, recorded) and recorded is not None

        return await self.apply(
            circuit.service,
            circuit.endpoint,
            lambda c, _: rules.probed(c, outcome, circuit.round, now, policy, caller),
            now,
            before=mine,
        )

    def quota_exhausted(self, service: str, until: datetime, now: datetime) -> None:
        """Notify operators, in a while, that calls wait longer than a moment for a vendor's quota."""
        last = self._exhausted.get(service)
        if until - now < _LONG_WAIT or (last is not None and now - last < _LONG_WAIT):
            return
        self._exhausted[service] = now
        self._soon(self._announce(incidents_notice.quota_exhausted(service, until, now)))

    async def _announce(self, notice: incidents_notice.Notice) -> None:
        try:
            async with self.db.system() as conn:
                await notifications.announce(conn, notice)
        except StoreUnavailable:
            log.warning("notify.lost", kind=notice.kind, service=notice.service)

    async def describe(self, failover_id: str, service: str, now: datetime) -> None:
        """Find out whom a failover affects; if this is lost, the guard does it again."""
        try:
            async with self.db.system() as conn:
                await failovers.affect(conn, failover_id, service, now)
        except StoreUnavailable:
            log.warning("failover.not_described", failover_id=failover_id)

    async def start_recovery(self, failover_id: str, circuit: Circuit, now: datetime) -> bool:
        """Start the guard of the circuit's epoch; False: not now, the health watch starts it later."""
        if self._provide is None:
            return False
        start = RecoveryStart(service=circuit.service, endpoint=circuit.endpoint, epoch=circuit.epoch)
        try:
            client = await self._provide()
            await client.start_workflow(
                RECOVER_VENDOR_WORKFLOW,
                start,
                id=recovery_workflow_id(start.service, start.endpoint, start.epoch),
                task_queue=WORKFLOWS,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                # A guard that was ended by hand, or lost, may be started again; one that is done finds nothing to do.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                static_summary=f"{circuit.service}: from trip {circuit.epoch} to restore",
                rpc_timeout=RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            pass
        except AWAY as error:
            log.warning("guard.not_started", service=circuit.service, epoch=circuit.epoch, error=type(error).__name__)
            return False
        try:
            async with self.db.system() as conn:
                await failovers.note_recovery(conn, failover_id, now, now + _FIRST_WAKE)
        except StoreUnavailable:
            return False
        return True

    def wake_recovery(self, circuit: Circuit) -> None:
        """Wake the guard soon; it wakes by itself anyway."""
        if self._provide is not None:
            self._soon(self._wake(self._provide, circuit))

    async def _wake(self, provide: ClientProvider, circuit: Circuit) -> None:
        try:
            client = await provide()
            name = recovery_workflow_id(circuit.service, circuit.endpoint, circuit.epoch)
            await client.get_workflow_handle(name).signal(WAKE_SIGNAL, rpc_timeout=RPC_TIMEOUT)
        except AWAY as error:
            log.info("guard.not_woken", service=circuit.service, epoch=circuit.epoch, error=type(error).__name__)


def _is_held(circuit: Circuit) -> bool:
    return circuit.held or circuit.forced == "open"


def _hastened(circuit: Circuit, _: bool, *, now: datetime, policy: CircuitPolicy) -> Circuit:
    return rules.hastened(circuit, now, policy)
