"""Keep the outcomes of calls in memory and write them in batches: no call waits for Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import COUNTED_AGAIN_AFTER, Outcome, tallied
from wedsync.kit import telemetry
from wedsync.pipeline.circuit_breakers import CircuitBreakers
from wedsync.store.health import queries as health
from wedsync.store.routing import circuits, failovers

log = structlog.get_logger(__name__)

#: Failures are written so soon; successes may wait.
FLUSH_SECONDS = 0.2
IDLE_FLUSH_SECONDS = 1.0
#: Records kept while Postgres is away; the oldest are dropped first.
MOST_RECORDS = 20_000
#: Written at once.
_BATCH = 2000
#: How long to wait for the last batch that is being written.
_CLOSE_SECONDS = 10.0
#: A record that can't be written is isolated by so many halvings of a batch; what is left of it then is lost.
_MOST_FAILURES = 60
#: So many records are written without waiting for more: a long batch holds up the calls beside it.
_MANY = 250
#: How long after a wedding-day call the wedding-day thresholds apply.
_WEDDING_DAY = timedelta(minutes=5)
_LOST = telemetry.meter().create_counter("vendor_call_records_lost", description="Records dropped for want of room")

Key = tuple[str, str]
Outcomes = list[tuple[Outcome, str]]


class CallRecorder:
    """Buffers the process's outcomes and writes them."""

    def __init__(self, breakers: CircuitBreakers) -> None:
        self._breakers = breakers
        self._routing_table = breakers.routing_table
        #: Outcomes not yet written, each with its caller.
        self._outcomes: dict[Key, Outcomes] = {}
        self._records: deque[Mapping[str, Any]] = deque()
        self._wedding_day: dict[Key, Any] = {}
        self._any = asyncio.Event()
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        #: One batch is written at a time, so that after a flush everything is written.
        self._writing = asyncio.Lock()
        #: How many batches were written.
        self.flushes = 0

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="routing-outcomes")

    async def close(self) -> None:
        """Write what is left and stop."""
        self._is_closing = True
        self._any.set()
        self._urgent.set()
        if self._task is not None:
            # Not cancelled: nobody would know whether the batch that is being written was written.
            await asyncio.wait([self._task], timeout=_CLOSE_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self.flush()
        if self._records:
            _LOST.add(len(self._records))
            log.error("routing.outcomes_lost", records=len(self._records))

    def add(
        self, key: Key | None, outcome: Outcome, caller: str, record: Mapping[str, Any], *, is_wedding_day: bool
    ) -> None:
        """Keep one call; `key` names the circuit that it counts for, `caller` the call with all its retries."""
        if len(self._records) >= MOST_RECORDS:
            self._records.popleft()
            _LOST.add(1)
        self._records.append(record)
        self._any.set()
        if len(self._records) >= _MANY:
            self._urgent.set()
        if key is None or outcome == "ignored":
            return
        self._outcomes.setdefault(key, []).append((outcome, caller))
        if is_wedding_day:
            self._wedding_day[key] = self._routing_table.now() + _WEDDING_DAY
        if outcome != "ok" and self._is_due(key):
            self._urgent.set()

    def _is_due(self, key: Key) -> bool:
        """Tell whether a transition is due by what this process knows."""
        policy, known, now = self._policy(key), self._routing_table.circuit(*key), self._routing_table.now()
        tally, failed = tallied(self._outcomes[key], known.failed_calls, now, None)
        return bool(rules.verdict(rules.counted(known, tally, now, policy, failed), policy))

    def _policy(self, key: Key) -> CircuitPolicy:
        until = self._wedding_day.get(key)
        return self._routing_table.policy(
            key[0], is_wedding_day=until is not None and self._routing_table.now() < until
        )

    async def _run(self) -> None:
        while not self._is_closing:
            await self._any.wait()
            has_failures = any(outcome != "ok" for some in self._outcomes.values() for outcome, _ in some)
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS if has_failures else IDLE_FLUSH_SECONDS):
                    await self._urgent.wait()
            try:
                await self.flush()
            except StoreUnavailable:
                log.warning("routing.outcomes_wait", records=len(self._records))
                await asyncio.sleep(IDLE_FLUSH_SECONDS)
            except Exception:
                # The writer survives whatever one batch held.
                log.exception("routing.outcomes_not_written")

    async def flush(self) -> None:
        """Write everything kept so far and make the transitions that are due. Raises StoreUnavailable."""
        async with self._writing:
            for _ in range(1 + len(self._records) // _BATCH):
                await self._flush_some()

    async def _flush_some(self) -> None:
        self._any.clear()
        self._urgent.clear()
        outcomes, self._outcomes = self._outcomes, {}
        batch = [self._records.popleft() for _ in range(min(len(self._records), _BATCH))]
        if self._records:
            self._any.set()
        if not outcomes and not batch:
            return
        try:
            due = await self._write(outcomes, batch)
        except BaseException as error:
            if isinstance(error, StoreUnavailable) or not isinstance(error, Exception):
                self._put_back(outcomes, batch)
                raise
            # Not the error's text: it quotes the records.
            log.error("routing.outcomes_apart", records=len(batch), error=type(error).__name__)
            due = await self._write_apart(outcomes, batch)
        self.flushes += 1
        for key in due:
            await self._trip(key)

    async def _write_apart(self, outcomes: Mapping[Key, Outcomes], batch: list[Mapping[str, Any]]) -> list[Key]:
        """Write all that can be written: each circuit by itself, the records by halves. Raises StoreUnavailable."""
        due: list[Key] = []
        parts = deque([*(({key: outcomes[key]}, []) for key in sorted(outcomes)), (dict[Key, Outcomes](), batch)])
        failures = 0
        try:
            while parts:
                some, rows = parts[0]
                try:
                    due += await self._write(some, rows)
                    parts.popleft()
                except StoreUnavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the others with it
                    parts.popleft()
                    half, failures = len(rows) // 2, failures + 1
                    if half and failures <= _MOST_FAILURES:
                        parts.extendleft([({}, rows[half:]), ({}, rows[:half])])
                    else:
                        _LOST.add(len(rows))
                        log.warning("routing.outcomes_lost", records=len(rows), error=type(error).__name__)
        finally:
            for some, rows in reversed(parts):
                self._put_back(some, rows)
        return due

    async def _write(self, outcomes: Mapping[Key, Outcomes], batch: list[Mapping[str, Any]]) -> list[Key]:
        due = []
        async with self._breakers.db.system() as conn:
            # In one order everywhere, so that writers never wait for each other in a ring.
            for key in sorted(outcomes):
                circuit = await circuits.lock_one(conn, *key)
                policy, now = self._policy(key), self._routing_table.now()
                again_after = await self._counted_again_after(conn, key[0], outcomes[key])
                tally, failed = tallied(outcomes[key], circuit.failed_calls, now, again_after)
                now_is = rules.counted(circuit, tally, now, policy, failed)
                if now_is != circuit:
                    await circuits.count(conn, now_is)
                self._routing_table.learn(now_is)
                if rules.verdict(now_is, policy):
                    due.append(key)
            if batch:
                await failovers.write_calls(conn, batch)
        return due

    @staticmethod
    async def _counted_again_after(conn: AsyncConnection, service: str, outcomes: Outcomes) -> timedelta | None:
        """Return when a call that goes on failing counts again; None: never, as a working probe tells more."""
        if not any(outcome == "failed" for outcome, _ in outcomes):
            return None
        return None if await health.is_well(conn, service) else COUNTED_AGAIN_AFTER

    def _put_back(self, outcomes: Mapping[Key, Outcomes], batch: list[Mapping[str, Any]]) -> None:
        for key, old in outcomes.items():
            self._outcomes[key] = [*old, *self._outcomes.get(key, [])]
        room = max(MOST_RECORDS - len(self._records), 0)
        _LOST.add(max(len(batch) - room, 0))
        # The oldest are dropped first.
        self._records.extendleft(reversed(batch[max(len(batch) - room, 0) :]))
        self._any.set()

    async def _trip(self, key: Key) -> None:
        until = self._wedding_day.get(key)
        is_wedding_day = until is not None and self._routing_table.now() < until
        moved = await self._breakers.trip(*key, self._routing_table.now(), is_wedding_day=is_wedding_day)
        if moved is not None and moved.failover_id is not None:
            await self._breakers.describe(moved.failover_id, key[0], self._routing_table.now())
