"""Limit the process's calls to its share: acquire blocks of calls from Postgres, and give them out call by call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import StoreUnavailable, ThrottledUntil
from wedsync.domain.quotas import headers as quotas_headers
from wedsync.domain.quotas import quota as rules
from wedsync.domain.quotas import waiters as quotas_waiters
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.quota import Grant, Quota, QuotaPolicy
from wedsync.domain.quotas.reservations import reservation_of
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.pipeline.rate_limit_account import MISSED, Account, Waiter, refusal
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.quotas import queries as quotas
from wedsync.store.quotas.queries import Key

log = structlog.get_logger(__name__)

#: A call whose turn comes so soon waits here: a retry from a workflow would take longer.
_SHORT_WAIT = timedelta(milliseconds=500)
#: Wait until enough moments have come up for those in line: else ten processes would ask Postgres for each one.
_TOGETHER = timedelta(milliseconds=200)
#: No call stands in line for longer: other processes may acquire every moment that comes up.
_IN_LINE = timedelta(seconds=1)
#: No call waits here for longer in all before it gets a moment: it is sent well within its activity's time.
_LONGEST_WAIT = timedelta(seconds=1.5)
#: Where no limit says how far apart calls may be, the retries after a 429 come so far apart.
_APART, _FARTHEST = timedelta(milliseconds=20), timedelta(seconds=10)
_LEAST_WAIT = timedelta(milliseconds=1)
_MOST_SWAPS = 20
#: Postgres has so long to answer; after a timeout it gets no request for a while.
_PATIENCE_SECONDS, _STALLED = 1.0, timedelta(seconds=5)
#: What the vendor's headers say is written no more often.
_LEARN_EVERY = timedelta(milliseconds=500)
#: Without Postgres a process uses this part of each limit.
_ALONE_PART = 10
#: What is written in the same transaction.
Also = Callable[[AsyncConnection], Awaitable[None]]
_THROTTLED = telemetry.meter().create_counter("quota_throttled", description="Calls that had to wait for a quota")
_LEFT = telemetry.meter().create_gauge("quota_left", description="Calls left of the tightest window")


class RateLimiter:
    """Limits the process's calls to each vendor account."""

    def __init__(self, db: Database, routing_table: RoutingTable) -> None:
        self._db = db
        self._routing_table = routing_table
        self._accounts: dict[Key, Account] = {}
        self._numbers = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        #: How often Postgres was asked.
        self.requests = 0

    def now(self) -> datetime:
        """Return the fleet's time."""
        return self._routing_table.now()

    async def close(self) -> None:
        """Refuse the calls that wait, finish what is being written."""
        tasks = [account.task for account in self._accounts.values() if account.task is not None]
        for task in (*tasks, *self._tasks):
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        for account in self._accounts.values():
            for waiter in account.waiting:
                waiter.granted.cancel()

    async def acquire(self, service: str, account: str, priority: int, wedding_id: str = "") -> int | None:
        """Acquire leave for one call; return how many are left of the tightest window, None: there is no limit.

        Raises ThrottledUntil with the exact moment from which to retry; then nothing was acquired.
        """
        key = (service, account)
        policy, stored, here = (
            self._routing_table.quota_policy(*key),
            self._routing_table.quota(*key),
            self._accounts.get(key),
        )
        if not policy.windows and here is None and stored.blocked_until is None:
            return None
        if here is None:
            here = self._accounts[key] = Account(known=stored)
        now = self.now()
        here.heed(stored)
        if not policy.windows:
            self._stop_if_blocked(here, now)
            return None
        here.recent.append(now.timestamp())
        slack, began = rules.slack(policy), now
        while True:
            left, moment = self._from_block(key, here) or await self._request_block(key, here, priority, wedding_id)
            wait = (moment - self.now()).total_seconds()
            if wait > 0:
                await asyncio.sleep(wait)
            # A 429 that came meanwhile, here or elsewhere, applies to moments given out before it, too.
            here.heed(self._routing_table.quota(*key))
            self._stop_if_blocked(here, self.now())
            if self.now() - moment <= slack:
                return left
            # So late that the call could arrive in a later window: its moment is lost.
            if self.now() - began > _LONGEST_WAIT:
                raise self._refused(key, self.now() + _TOGETHER, MISSED)

    def _from_block(self, key: Key, here: Account) -> tuple[int, datetime] | None:
        """Give a call of the block that the process holds."""
        now = self.now()
        if here.waiting or (found := here.next_of_block(now)) is None:
            return None
        ends_soon = here.good_until is not None and here.good_until - now < timedelta(seconds=rules.BLOCK_SECONDS / 4)
        is_low = here.calls < here.low or ends_soon
        if is_low and not here.pace and (here.task is None or here.task.done()):
            here.task = asyncio.create_task(self._refill(key, here), name=f"quota-{key[0]}")
        return found

    async def _refill(self, key: Key, here: Account) -> None:
        """Request the next block before this one's last call is given out; then serve those who came meanwhile."""
        try:
            grant = await self._grant(key, here, self._routing_table.quota_policy(*key), 0, rules.ORDINARY, "")
            if grant.calls and not grant.pace_seconds:
                here.calls += grant.calls
                here.good_until, here.low, here.left = grant.good_until, here.calls // 4, (grant.left or 0) + here.calls
        except Exception:
            log.exception("quota.not_refilled", service=key[0])
        if here.waiting:
            await self._serve_all(key, here)

    async def _request_block(self, key: Key, here: Account, priority: int, wedding_id: str) -> tuple[int, datetime]:
        """Wait in line for a call of a new block; wedding days have a line of their own. Raises ThrottledUntil."""
        if priority == rules.WEDDING_DAY:
            return await self._request_at_once(key, here, wedding_id)
        self._numbers += 1
        granted: asyncio.Future[tuple[int, datetime]] = asyncio.get_running_loop().create_future()
        here.waiting.append(Waiter(priority, self._numbers, wedding_id, self.now() + _IN_LINE, granted))
        if here.task is None or here.task.done():
            here.task = asyncio.create_task(self._serve_all(key, here), name=f"quota-{key[0]}")
        return await granted

    async def _request_at_once(self, key: Key, here: Account, wedding_id: str) -> tuple[int, datetime]:
        leaves_at = self.now() + _IN_LINE
        while True:
            policy = self._routing_table.quota_policy(*key)
            async with here.urgent:
                grant = await self._grant(key, here, policy, 1, rules.WEDDING_DAY, wedding_id)
            now = self.now()
            if grant.calls:
                return grant.left or 0, grant.not_before or now
            until = grant.until or now
            if until - now > _SHORT_WAIT or until > leaves_at:
                raise self._refused(key, here.moment(grant, policy, rules.WEDDING_DAY, 0, now), grant.why)
            await asyncio.sleep(max(until - now, _LEAST_WAIT).total_seconds())

    def _refused(self, key: Key, until: datetime, why: str) -> ThrottledUntil:
        _THROTTLED.add(1, {"service": key[0]})
        return refusal(key[0], until, why, self.now())

    def _stop_if_blocked(self, here: Account, now: datetime) -> None:
        until = here.as_reported(now).blocked_until
        if until is not None and now < until:
            _THROTTLED.add(1, {"service": here.known.service})
            here.refused = here.refused + 1 if here.refused_until == until else 0
            here.refused_until = until
            # One after another: all at that very moment would only be refused again.
            later = min(_APART * here.refused, _FARTHEST)
            raise refusal(here.known.service, until + later, "blocked", now)

    async def _serve_all(self, key: Key, here: Account) -> None:
        try:
            await self._serve(key, here)
        except Exception as error:
            # Pass the error on to the calls that wait: nobody else would ever wake them.
            log.exception("quota.failed", service=key[0])
            waiting, here.waiting = here.waiting, []
            for waiter in waiting:
                if not waiter.granted.done():
                    waiter.granted.set_exception(error)

    async def _serve(self, key: Key, here: Account) -> None:
        """Request blocks for the calls that wait, the most urgent first, until none waits."""
        while here.waiting:
            self._hand_out_block(here)
            if not here.waiting:
                return
            first = here.waiting[0]
            policy = self._routing_table.quota_policy(*key)
            wedding_id = first.wedding_id
            is_reserved = reservation_of(here.known, wedding_id, self.now()) is not None
            same = [first] if is_reserved else [t for t in here.waiting if t.priority == first.priority]
            grant = await self._grant(key, here, policy, len(same), first.priority, wedding_id if is_reserved else "")
            _LEFT.set(grant.left or 0, {"service": key[0]})
            if grant.calls:
                self._distribute(here, same, grant)
                continue
            staying = self._send_away(key, here, policy, grant, first.priority)
            if staying:
                soon = (grant.until or self.now()) - self.now()
                enough = min(staying * quotas_waiters.pace_of(grant, policy), _TOGETHER)
                await asyncio.sleep(max(soon, enough, _LEAST_WAIT).total_seconds())

    def _hand_out_block(self, here: Account) -> None:
        """Give the block in hand to calls that came while it was requested, the most urgent first.

        Else they would request another block, and those that come meanwhile again: at a steady rate each call would
        then wait for Postgres for as long as the rate lasts.
        """
        here.waiting = sorted(waiter for waiter in here.waiting if not waiter.granted.done())
        while here.waiting and (found := here.next_of_block(self.now())) is not None:
            here.waiting.pop(0).granted.set_result(found)

    def _distribute(self, here: Account, waiters: list[Waiter], grant: Grant) -> None:
        left, at, pace = grant.left or 0, grant.not_before or self.now(), timedelta(seconds=grant.pace_seconds)
        if at <= self.now():
            # Nobody came for the earlier moments: the later ones given out do not stand in the way.
            here.retry_slots.clear()
        for place, waiter in enumerate(waiters[: grant.calls]):
            here.waiting.remove(waiter)
            if not waiter.granted.done():
                waiter.granted.set_result((left + max(grant.calls - place - 1, 0), at + place * pace))
        rest = grant.calls - len(waiters)
        if rest > 0:
            here.calls, here.good_until, here.left = rest, grant.good_until, left + rest
            here.next_at, here.pace, here.low = at + len(waiters) * pace, pace, rest // 4

    def _send_away(self, key: Key, here: Account, policy: QuotaPolicy, grant: Grant, priority: int) -> int:
        """Keep in line, of this priority and lower, only the calls whose turn comes soon; the others retry, each at a
        moment of its own. Returns how many stay."""
        now = self.now()
        stay = [waiter for waiter in here.waiting if waiter.priority < priority]
        before = len(stay)
        for place, waiter in enumerate(here.waiting[before:]):
            turn = quotas_waiters.in_line(grant, policy, place, now)
            if turn - now <= _SHORT_WAIT and turn <= waiter.leaves_at:
                stay.append(waiter)
            elif not waiter.granted.done():
                until = here.moment(grant, policy, waiter.priority, place, now)
                waiter.granted.set_exception(self._refused(key, until, grant.why))
        here.waiting = stay
        return len(stay) - before

    async def _grant(
        self, key: Key, here: Account, policy: QuotaPolicy, waiting: int, priority: int, wedding_id: str
    ) -> Grant:
        """Acquire a block by one statement; by a few when other processes write at the same moment."""
        ahead = 0.0 if wedding_id or priority != rules.ORDINARY else self._recent_per_second(here)
        patience_ends = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        for _ in range(_MOST_SWAPS):
            now = self.now()
            known = here.as_reported(now)
            left = acquire(known, policy, 1, now, priority=priority, wedding_id=wedding_id)[1].left
            wanted = quotas_waiters.block_size(policy, left, waiting, ahead)
            changed, grant = acquire(known, policy, wanted, now, priority=priority, wedding_id=wedding_id)
            if not grant.calls and here.known.version:
                # Refused by what is known: others may only have acquired more meanwhile, or released nothing.
                return grant
            try:
                is_ours = await self._swap_in_time(here, changed, patience_ends)
            except StoreUnavailable:
                return self._alone(here, policy, waiting, priority, now)
            if is_ours:
                return grant
        return Grant(
            calls=0, good_until=now, until=now + timedelta(milliseconds=5), left=0, why=quotas_waiters.CONTENDED
        )

    def _recent_per_second(self, here: Account) -> float:
        if len(here.recent) < 2:
            return 0.0
        span = max(here.recent[-1] - here.recent[0], 0.001)
        return min(len(here.recent) / span, 10_000.0)

    async def _swap_in_time(self, here: Account, wanted: Quota, ends: float) -> bool:
        """Write it unless Postgres stalls, as it does while somebody holds the row. Raises StoreUnavailable."""
        if self.now() < here.stalled_until:
            raise StoreUnavailable("the database did not answer in time", reason="stalled")
        task = asyncio.create_task(self._swap(here, wanted), name=f"quota-swap-{here.known.service}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            # A hanging write takes its time to be cancelled, too: nobody waits for that.
            await asyncio.wait({task}, timeout=max(ends - asyncio.get_running_loop().time(), 0.0))
        finally:
            is_done = task.done()
            task.cancel()
        if not is_done:
            here.stalled_until = self.now() + _STALLED
            raise StoreUnavailable("the database did not answer in time", reason="stalled")
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Those who still wait raise it; nobody else needs to know.
            task.exception()

    async def _swap(self, here: Account, wanted: Quota, *, publishes: bool = False, also: Also | None = None) -> bool:
        """Write the change and remember the row as it then is."""
        self.requests += 1
        before = utc_now()
        async with self._db.system() as conn:
            written = await quotas.swap(conn, wanted, new_id(), hurries=not publishes)
            if publishes and written.is_ours:
                await quotas.publish(conn, wanted.service)
            if also is not None and written.is_ours:
                await also(conn)
        self._routing_table.clock.set(written.at, before, utc_now())
        if written.quota.version >= here.known.version:
            here.known = written.quota
        return written.is_ours

    def _alone(self, here: Account, policy: QuotaPolicy, waiting: int, priority: int, now: datetime) -> Grant:
        """Acquire calls while Postgres is away: a small part of each limit, counted in this process only."""
        log.warning("quota.alone", service=here.known.service)
        part = tuple(one.model_copy(update={"limit": max(one.limit // _ALONE_PART, 1)}) for one in policy.windows)
        mine = policy.model_copy(update={"windows": part})
        _, spare = acquire(here.as_reported(now), policy, waiting, now, priority=priority)
        if not spare.calls:
            return spare
        so_far = here.alone or Quota(service=here.known.service, account=here.known.account)
        here.alone, grant = acquire(so_far, mine, spare.calls, now, priority=priority)
        return grant

    # ---- what the vendor says

    def learn(self, service: str, account: str, headers: Mapping[str, str]) -> None:
        """Record a vendor's own count, soon; returns at once and never raises: the vendor has done its work."""
        try:
            self._learn((service, account), headers)
        except Exception:
            log.exception("quota.not_learned", service=service)

    def _learn(self, key: Key, headers: Mapping[str, str]) -> None:
        policy = self._routing_table.quota_policy(*key)
        here = self._accounts.get(key)
        if here is None or not policy.windows:
            return
        now = self.now()
        parsed = quotas_headers.read(headers, now)
        if parsed is None or (here.learned_at is not None and now - here.learned_at < _LEARN_EVERY):
            return
        if quotas_headers.corrected(here.known, policy, parsed, now) != here.known:
            here.learned_at = now
            self._soon(
                key,
                lambda quota: quotas_headers.corrected(
                    quota, self._routing_table.quota_policy(*key), parsed, self.now()
                ),
            )

    def block(self, service: str, account: str, seconds: float) -> None:
        """Block the account in the whole fleet for as long as the vendor takes no calls; returns at once."""
        key = (service, account)
        now = self.now()
        until = now + timedelta(seconds=seconds)
        here = self._accounts.setdefault(key, Account(known=self._routing_table.quota(*key)))
        # Not into the known row: whoever finds it there assumes that it is written.
        here.calls, here.blocked_until, here.blocked_at = (
            0,
            max(until, here.as_reported(now).blocked_until or until),
            now,
        )
        self._soon(key, lambda quota: quotas_headers.blocked(quota, until, now))

    def _soon(self, key: Key, change: Callable[[Quota], Quota]) -> None:
        task = asyncio.create_task(self._try_change(key, change), name="quota-change")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_change(self, key: Key, change: Callable[[Quota], Quota]) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.change(key, change)

    async def change(self, key: Key, change: Callable[[Quota], Quota], also: Also | None = None) -> Quota:
        """Change an account's row and notify every process; `also` is written with it. Raises StoreUnavailable."""
        stored = self._routing_table.quota(*key)
        here = self._accounts.setdefault(key, Account(known=stored))
        known = Account(known=max(here.known, stored, key=lambda quota: quota.version))
        while True:
            wanted = change(known.known)
            # A person's change always starts from the row: this process's copy may be old.
            if wanted == known.known and known.known.version and also is None:
                here.known = known.known
                return wanted
            if await self._swap(known, wanted, publishes=True, also=also):
                here.known, here.calls = known.known, 0
                return known.known
