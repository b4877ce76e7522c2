"""Sends first attempts: many at once, few to one endpoint, so that hanging ones hold up nobody else.

A request that has no answer after a second gives its place to others and goes on by itself, up to its timeout; its
endpoint gets no second one meanwhile, and after the timeout it is retried by a workflow of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import datetime, timedelta

from wedsync.domain.routing.vendor import Value
from wedsync.domain.webhooks.bucket import Bucket, Limit, take
from wedsync.domain.webhooks.outgoing.endpoint import Attempt
from wedsync.domain.webhooks.outgoing.messages import PumpAnswer
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.store import deliveries as store
from wedsync.store.deliveries import Claimed
from wedsync.store.session import Database
from wedsync.usecases.webhooks.outgoing.send import Sender
from wedsync.usecases.webhooks.outgoing.settle import settle
from wedsync.usecases.webhooks.outgoing.tell import OutboxTeller

#: Longer than an attempt with its recording: what a dead process had in hand is sent again after it.
LEASE = timedelta(seconds=60)
#: Attempts recorded by one transaction at the most.
_MOST_SETTLED = 200
_MOST_BUCKETS = 20_000

_log = logs.get(__name__)


class PumpLimits(Value):
    """How much is under way at once."""

    #: Claimed by one look.
    batch: int = 50
    #: Requests younger than `slow_after_seconds`, over all endpoints.
    young: int = 100
    #: Requests of any age.
    every: int = 800
    #: Requests to one endpoint.
    each: int = 4
    slow_after_seconds: float = 1.0
    #: One run of the activity claims for so long.
    run_seconds: float = 10.0


class Pump:
    """The process's pump. Requests outlive the run that started them."""

    def __init__(self, db: Database, sender: Sender, teller: OutboxTeller, limits: PumpLimits | None = None) -> None:
        self._db = db
        self._sender = sender
        self._teller = teller
        self._limits = limits or PumpLimits()
        self._in_flight: dict[asyncio.Task[None], tuple[str, float]] = {}
        self._made: list[tuple[Claimed, Attempt]] = []
        self._settling: asyncio.Task[None] | None = None
        self._buckets: dict[str, Bucket] = {}
        self._changed = asyncio.Event()
        self._cursor = ""

    async def run(self) -> PumpAnswer:
        """Send what is due until nothing is, or for `run_seconds`. Raises StoreUnavailable."""
        ends_at = time.monotonic() + self._limits.run_seconds
        sent, soonest, is_fresh_round = 0, None, self._cursor == ""
        while time.monotonic() < ends_at:
            self._changed.clear()
            claimed: list[Claimed] = []
            room = self._free()
            if room:
                is_fresh_round = self._cursor == ""
                claimed, self._cursor = await self._claim(min(room, self._limits.batch))
                due_at = await self._start(claimed)
                soonest = min(filter(None, (soonest, due_at)), default=None)
                sent += len(claimed)
            if claimed or (room and not (is_fresh_round and self._cursor == "")):
                continue
            if not self._young() and not self._is_settling():
                break
            await self._wait_for_change(ends_at)
        await self._settled()
        wait = None if soonest is None else max(0.0, (soonest - utc_now()).total_seconds())
        return PumpAnswer(sent=sent, next_due_seconds=wait)

    async def idle(self) -> None:
        """Wait until nothing is under way and everything is recorded."""
        while self._in_flight:
            await asyncio.wait(list(self._in_flight))
            await self._settled()
        await self._settled()

    async def close(self) -> None:
        """End what is under way: it is sent again once its lease is over."""
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settled()

    def _young(self) -> int:
        since = time.monotonic() - self._limits.slow_after_seconds
        return sum(began > since for _, began in self._in_flight.values())

    def _free(self) -> int:
        return min(self._limits.young - self._young(), self._limits.every - len(self._in_flight))

    def _room(self) -> dict[str, int]:
        """What endpoints with requests under way may have beside them: nothing while one of them is slow."""
        since = time.monotonic() - self._limits.slow_after_seconds
        slow = {endpoint_id for endpoint_id, began in self._in_flight.values() if began <= since}
        counts = Counter(endpoint_id for endpoint_id, _ in self._in_flight.values())
        # Until an attempt is recorded its endpoint may turn out to fail.
        counts.update(attempt.subscription_id for _, attempt in self._made)
        return {name: 0 if name in slow else max(0, self._limits.each - count) for name, count in counts.items()}

    async def _claim(self, limit: int) -> tuple[list[Claimed], str]:
        now = utc_now()
        async with self._db.system() as conn:
            return await store.claim_pending(
                conn,
                after=self._cursor,
                limit=limit,
                each=self._limits.each,
                room=self._room(),
                now=now,
                lease_until=now + LEASE,
            )

    async def _start(self, claimed: list[Claimed]) -> datetime | None:
        """Send what the endpoints' rates allow, put the rest off; returns when the first of that is due."""
        put_off: dict[str, datetime] = {}
        for item in claimed:
            wait = self._take(item)
            if wait:
                put_off[item.id] = utc_now() + timedelta(seconds=wait)
                continue
            task = asyncio.create_task(self._send(item), name="deliver")
            self._in_flight[task] = (item.subscription_id, time.monotonic())
            task.add_done_callback(self._landed)
        if put_off:
            async with self._db.system() as conn:
                await store.put_off(conn, put_off)
        return min(put_off.values(), default=None)

    def _take(self, item: Claimed) -> float:
        """0, or the seconds until the endpoint's rate has room."""
        rates = [rate for rate in (item.rate_per_second, item.pace_per_second) if rate is not None]
        if not rates:
            return 0.0
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.clear()
        rate = min(rates)
        limit = Limit(per_second=rate, burst=max(1.0, rate))
        bucket, wait = take(self._buckets.get(item.subscription_id), limit, time.monotonic())
        self._buckets[item.subscription_id] = bucket
        return wait

    async def _send(self, item: Claimed) -> None:
        attempt = await self._sender.send(item, utc_now())
        self._made.append((item, attempt))
        if not self._is_settling():
            self._settling = asyncio.create_task(self._settle(), name="settle-deliveries")

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        self._changed.set()

    def _is_settling(self) -> bool:
        return self._settling is not None and not self._settling.done()

    async def _settle(self) -> None:
        """Record attempts as they come, many at once."""
        while self._made:
            # What lands within the same turn of the loop is recorded together.
            await asyncio.sleep(0)
            made = self._made[:_MOST_SETTLED]
            try:
                outcome = await settle(self._db, made, utc_now())
                self._teller.tell_endpoints(outcome.to_retry)
            except Exception:  # noqa: BLE001 - whatever it was: the leases end, and they are sent again
                _log.exception("deliveries_unrecorded", count=len(made))
            finally:
                del self._made[: len(made)]
                self._changed.set()

    async def _settled(self) -> None:
        """Wait until the attempts made so far are recorded; a caller that is cancelled stops only the waiting."""
        while self._settling is not None and not self._settling.done():
            await asyncio.wait([self._settling])

    async def _wait_for_change(self, ends_at: float) -> None:
        """Until a request lands or an attempt is recorded, or until the oldest young one grows slow."""
        since = time.monotonic() - self._limits.slow_after_seconds
        grows = [began - since for _, began in self._in_flight.values() if began > since]
        wait = min([ends_at - time.monotonic(), *grows, self._limits.slow_after_seconds])
        try:
            async with asyncio.timeout(max(0.01, wait)):
                await self._changed.wait()
        except TimeoutError:
            return
