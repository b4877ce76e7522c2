"""Send first attempts: many at once, few to one endpoint, so that hanging ones hold up nobody else.

A request without an answer after a second gives its place to others and goes on by itself, up to its timeout; its
endpoint gets no second one meanwhile, and after the timeout a workflow of its own retries it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

from wedsync.dispatch.outbox import OutboxDispatcher
from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.inbox.token_bucket import Bucket, Limit, acquire
from wedsync.domain.outbox.messages import SentDeliveries
from wedsync.domain.outbox.subscription import DeliveryAttempt
from wedsync.domain.value import Value
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.store.db.session import Database
from wedsync.store.outbox import deliveries as store
from wedsync.store.outbox.deliveries import Claimed
from wedsync.usecases.outbox.endpoint_concurrency import EndpointConcurrency
from wedsync.usecases.outbox.record_outcome import record_attempts
from wedsync.usecases.outbox.send import PUT_OFF, AttemptSender

#: Longer than an attempt with its recording: after it, what a dead process had in hand is sent again.
LEASE = timedelta(seconds=60)
#: The most attempts that one transaction records.
_MOST_RECORDED = 200
#: So many are recorded at once without waiting for more, and the rest after so long.
_ENOUGH_RECORDED = 50
_GATHER_SECONDS = 0.02
_MOST_BUCKETS = 20_000

_log = logs.get(__name__)


class DeliveryLimits(Value):
    """Limits of what is under way at once."""

    #: Claimed by one query.
    batch: int = 100
    #: Requests younger than `slow_after_seconds`, over all endpoints.
    young: int = 100
    #: Requests of any age.
    every: int = 800
    #: Requests to one endpoint.
    each: int = 4
    #: In hand for an endpoint that answers well, with those under way.
    ahead: int = 64
    #: Claimed beyond what can be under way, over all endpoints.
    spare: int = 100
    slow_after_seconds: float = 1.0
    #: What waits for its turn is given back after so long: much sooner than its lease ends.
    hold_seconds: float = 2.0
    #: While something is under way, others' new deliveries are claimed so often.
    poll_seconds: float = 0.05
    #: One run of the activity claims for so long.
    run_seconds: float = 10.0


class DeliverySender:
    """Sends the process's deliveries. Requests outlive the run that started them."""

    def __init__(
        self, db: Database, sender: AttemptSender, dispatcher: OutboxDispatcher, limits: DeliveryLimits | None = None
    ) -> None:
        self._db = db
        self._sender = sender
        self._dispatcher = dispatcher
        self._limits = limits or DeliveryLimits()
        self._concurrency = EndpointConcurrency(
            each=self._limits.each,
            ahead=self._limits.ahead,
            slow_after_seconds=self._limits.slow_after_seconds,
            hold_seconds=self._limits.hold_seconds,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._made: list[tuple[Claimed, DeliveryAttempt]] = []
        self._recording: asyncio.Task[None] | None = None
        self._claiming: asyncio.Task[tuple[int, datetime | None]] | None = None
        self._buckets: dict[str, Bucket] = {}
        self._changed = asyncio.Event()
        self._cursor = ""

    async def run(self) -> SentDeliveries:
        """Send what is due until nothing is, or for `run_seconds`. Raises StoreUnavailable."""
        ends_at = time.monotonic() + self._limits.run_seconds
        sent, soonest, is_fresh_round = 0, None, self._cursor == ""
        while time.monotonic() < ends_at:
            self._changed.clear()
            await self._give_back(self._concurrency.give_back())
            claimed = 0
            room = self._room()
            if room:
                is_fresh_round = self._cursor == ""
                # A run that is cancelled in the middle must not leave claimed deliveries in nobody's hand.
                self._claiming = asyncio.create_task(self._claim(room), name="claim-deliveries")
                claimed, due_at = await asyncio.shield(self._claiming)
                soonest = min(filter(None, (soonest, due_at)), default=None)
                sent += claimed
            if room and (claimed or not (is_fresh_round and self._cursor == "")):
                continue
            if not self._concurrency.young() and not self._concurrency.waiting and not self._is_recording():
                break
            await self._wait_for_change(ends_at)
        await self._until_recorded()
        wait = None if soonest is None else max(0.0, (soonest - utc_now()).total_seconds())
        return SentDeliveries(sent=sent, next_due_seconds=wait)

    async def idle(self) -> None:
        """Wait until nothing is under way and everything is recorded."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
            await self._until_recorded()
        await self._until_recorded()

    async def close(self) -> None:
        """End what is under way and give back what waits; the former is sent again once its lease is over."""
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        waiting = self._concurrency.give_back(all_of_it=True)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._until_recorded()
        try:
            await self._give_back(waiting)
        except StoreUnavailable:
            _log.warning("deliveries_kept_until_their_lease_ends", count=len(waiting))

    def _free(self) -> int:
        return max(
            0, min(self._limits.young - self._concurrency.young(), self._limits.every - self._concurrency.flying)
        )

    def _room(self) -> int:
        """Return how many may be claimed now."""
        free = self._free()
        return min(self._limits.batch, max(0, free + self._limits.spare - self._concurrency.waiting)) if free else 0

    async def _claim(self, limit: int) -> tuple[int, datetime | None]:
        """Claim deliveries; return how many, and when the first of those that their endpoints' rates put off is due."""
        now = utc_now()
        async with self._db.system() as conn:
            claimed, self._cursor = await store.claim_pending(
                conn,
                after=self._cursor,
                limit=limit,
                each=self._limits.each,
                room=self._concurrency.room(),
                now=now,
                lease_until=now + LEASE,
            )
        return len(claimed), await self._accept(claimed)

    async def _accept(self, claimed: list[Claimed]) -> datetime | None:
        """Take in hand what the endpoints' rates allow, put the rest off; return when the first of that is due."""
        put_off: dict[str, datetime] = {}
        for item in claimed:
            wait = self._acquire_rate(item)
            if wait:
                put_off[item.id] = utc_now() + timedelta(seconds=wait)
            else:
                self._concurrency.add(item)
        self._start()
        if put_off:
            async with self._db.system() as conn:
                await store.put_off(conn, put_off)
        return min(put_off.values(), default=None)

    async def _give_back(self, items: list[Claimed]) -> None:
        if items:
            now = utc_now()
            async with self._db.system() as conn:
                await store.put_off(conn, {item.id: now for item in items})

    def _start(self) -> None:
        """Send the deliveries whose turn it is."""
        if not self._concurrency.waiting:
            return
        for item in self._concurrency.acquire(self._free()):
            task = asyncio.create_task(self._send(item), name="deliver")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _acquire_rate(self, item: Claimed) -> float:
        """Return 0, or the seconds until the endpoint's rate has room."""
        rates = [rate for rate in (item.rate_per_second, item.pace_per_second) if rate is not None]
        if not rates:
            return 0.0
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.clear()
        rate = min(rates)
        limit = Limit(per_second=rate, burst=max(1.0, rate))
        bucket, wait = acquire(self._buckets.get(item.subscription_id), limit, time.monotonic())
        self._buckets[item.subscription_id] = bucket
        return wait

    async def _send(self, item: Claimed) -> None:
        attempt = None
        try:
            attempt = await self._sender.send(item, utc_now())
        finally:
            if attempt is None:
                self._concurrency.lost(item)
                self._changed.set()
        if attempt is None:
            await self._put_off(item)
            return
        is_well = attempt.error is None
        self._concurrency.landed(item, is_well=is_well)
        self._made.append((item, attempt))
        if not self._is_recording():
            self._recording = asyncio.create_task(self._record(), name="settle-deliveries")
        self._start()
        if not is_well or self._concurrency.wants(item.subscription_id):
            self._changed.set()

    async def _put_off(self, item: Claimed) -> None:
        """Give back what could not be tried: it is due again soon, by the sweep if nothing else runs the sender."""
        try:
            async with self._db.system() as conn:
                await store.put_off(conn, {item.id: utc_now() + PUT_OFF})
        except StoreUnavailable:
            _log.warning("deliveries_kept_until_their_lease_ends", count=1)

    def _is_recording(self) -> bool:
        return self._recording is not None and not self._recording.done()

    async def _record(self) -> None:
        """Record attempts as they come, many at once."""
        while self._made:
            await self._gather()
            made = self._made[:_MOST_RECORDED]
            try:
                outcome = await record_attempts(self._db, made, utc_now())
                self._dispatcher.signal_subscriptions(outcome.to_retry)
            except Exception:  # noqa: BLE001 - whatever it was: the leases end, and they are sent again
                _log.exception("deliveries_unrecorded", count=len(made))
            finally:
                del self._made[: len(made)]
                for item, attempt in made:
                    self._concurrency.recorded(item, is_well=attempt.error is None)
                self._changed.set()

    async def _gather(self) -> None:
        """Give others under way a moment, so that many attempts are recorded together; not when one failed."""
        ends_at = time.monotonic() + _GATHER_SECONDS
        await asyncio.sleep(0)
        # An event for each that ends would cost more than these few checks.
        while self._is_worth_waiting() and time.monotonic() < ends_at:  # noqa: ASYNC110
            await asyncio.sleep(_GATHER_SECONDS / 5)

    def _is_worth_waiting(self) -> bool:
        is_well = all(attempt.error is None for _, attempt in self._made)
        return is_well and len(self._made) < _ENOUGH_RECORDED and self._concurrency.young() > 0

    async def _until_recorded(self) -> None:
        """Wait until the attempts made so far are recorded; a caller that is cancelled stops only the waiting."""
        while self._recording is not None and not self._recording.done():
            await asyncio.wait([self._recording])

    async def _wait_for_change(self, ends_at: float) -> None:
        """Wait until something may be claimed, given back or ended; at most until the next query for new deliveries."""
        grows = self._concurrency.grows_slow_in()
        wait = min([ends_at - time.monotonic(), self._limits.poll_seconds, *([] if grows is None else [grows])])
        try:
            async with asyncio.timeout(max(0.01, wait)):
                await self._changed.wait()
        except TimeoutError:
            return
