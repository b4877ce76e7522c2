"""Track what one process has in hand for each endpoint, and how much more of it may be claimed.

Few requests to an endpoint are under way at once. The process claims ahead for one that answers well, more with
each answer, so that one query claims many; it gives back what waits for one that is slow or fails.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from wedsync.store.deliveries import Claimed


class _Lane:
    """One endpoint's deliveries in hand."""

    __slots__ = ("failures", "flying", "unrecorded", "waiting", "window")

    def __init__(self, window: int) -> None:
        #: When each request began, by delivery.
        self.flying: dict[str, float] = {}
        #: Claimed, not sent yet, with the time of the claim.
        self.waiting: deque[tuple[float, Claimed]] = deque()
        #: Answers that are not recorded yet, and those of them that may yet show that the endpoint fails.
        self.unrecorded = 0
        self.failures = 0
        #: So many may be in hand.
        self.window = window

    @property
    def is_empty(self) -> bool:
        return not (self.flying or self.waiting or self.unrecorded)


class Lanes:
    """Endpoints with something in hand. Times are seconds of `clock`."""

    def __init__(
        self,
        *,
        each: int,
        ahead: int,
        slow_after_seconds: float,
        hold_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`each`: requests to an endpoint at once; `ahead`: the most in hand for one that answers well."""
        self._clock = clock
        self._each = each
        self._ahead = ahead
        self._slow_after_seconds = slow_after_seconds
        self._hold_seconds = hold_seconds
        self._lanes: dict[str, _Lane] = {}
        self._young: deque[tuple[float, str, str]] = deque()
        self.waiting = 0
        self.flying = 0

    def add(self, item: Claimed) -> None:
        """Take a claimed delivery in hand."""
        self._lane(item).waiting.append((self._clock(), item))
        self.waiting += 1

    def take(self, most: int) -> list[Claimed]:
        """Start up to `most` deliveries whose turn it is, one of each endpoint in turn; return them."""
        taken: list[Claimed] = []
        now = self._clock()
        ready = [lane for lane in self._lanes.values() if self._is_ready(lane, now)] if self.waiting else []
        while ready and len(taken) < most:
            for lane in ready[: most - len(taken)]:
                _, item = lane.waiting.popleft()
                lane.flying[item.id] = now
                self._young.append((now, item.subscription_id, item.id))
                taken.append(item)
            ready = [lane for lane in ready if lane.waiting and len(lane.flying) < self._each]
        self.waiting -= len(taken)
        self.flying += len(taken)
        return taken

    def landed(self, item: Claimed, *, is_well: bool) -> None:
        """Note that a request ended."""
        lane = self._lanes[item.subscription_id]
        del lane.flying[item.id]
        self.flying -= 1
        lane.unrecorded += 1
        if not is_well:
            lane.failures += 1
            lane.window = self._each
        elif not lane.failures and item.rate_per_second is None and item.pace_per_second is None:
            lane.window = min(self._ahead, lane.window + 1)

    def lost(self, item: Claimed) -> None:
        """Note that a request was broken off; nothing is known of it."""
        lane = self._lanes[item.subscription_id]
        if lane.flying.pop(item.id, None) is not None:
            self.flying -= 1
        self._forget_if_empty(item.subscription_id)

    def recorded(self, item: Claimed, *, is_well: bool) -> None:
        """Note that an answer is recorded."""
        lane = self._lanes[item.subscription_id]
        lane.unrecorded -= 1
        lane.failures -= not is_well
        self._forget_if_empty(item.subscription_id)

    def give_back(self, *, all_of_it: bool = False) -> list[Claimed]:
        """Take back what should not wait here longer: for slow and failing endpoints, or for too long."""
        if not self.waiting:
            return []
        now, given = self._clock(), []
        for endpoint_id, lane in list(self._lanes.items()):
            if not lane.waiting:
                continue
            is_stale = lane.waiting[0][0] < now - self._hold_seconds
            if all_of_it or is_stale or lane.failures or self._is_slow(lane, now):
                given += [item for _, item in lane.waiting]
                lane.waiting.clear()
                lane.window = self._each
                self._forget_if_empty(endpoint_id)
        self.waiting -= len(given)
        return given

    def room(self) -> dict[str, int]:
        """Count how many more may be claimed for endpoints with something in hand: none while one request is slow."""
        now = self._clock()
        return {endpoint_id: self._room_of(lane, now) for endpoint_id, lane in self._lanes.items()}

    def wants(self, endpoint_id: str) -> bool:
        """Tell whether more may be claimed for an endpoint that has or had something in hand."""
        lane = self._lanes.get(endpoint_id)
        return lane is None or self._room_of(lane, self._clock()) > 0

    def young(self) -> int:
        """Count the requests under way that are not slow yet."""
        self._age()
        return len(self._young)

    def grows_slow_in(self) -> float | None:
        """Return the seconds until the next request grows slow; None: there is no young one."""
        self._age()
        return self._young[0][0] + self._slow_after_seconds - self._clock() if self._young else None

    def _age(self) -> None:
        # Those that ended out of turn are dropped when they come to the front, or when they are too many.
        since = self._clock() - self._slow_after_seconds
        while self._young and (self._young[0][0] <= since or not self._flies(self._young[0])):
            self._young.popleft()
        if len(self._young) > self.flying:
            self._young = deque(entry for entry in self._young if self._flies(entry))

    def _flies(self, entry: tuple[float, str, str]) -> bool:
        lane = self._lanes.get(entry[1])
        return lane is not None and entry[2] in lane.flying

    def _lane(self, item: Claimed) -> _Lane:
        lane = self._lanes.get(item.subscription_id)
        if lane is None:
            lane = self._lanes[item.subscription_id] = _Lane(self._each)
        return lane

    def _room_of(self, lane: _Lane, now: float) -> int:
        # Until a failure is recorded its endpoint may turn out to be failing.
        if lane.failures or self._is_slow(lane, now):
            return 0
        in_hand = len(lane.flying) + len(lane.waiting)
        if lane.window == self._each:
            return max(0, self._each - in_hand - lane.unrecorded)
        # Many at once, or each costs a query.
        return lane.window - in_hand if in_hand <= lane.window // 2 else 0

    def _is_ready(self, lane: _Lane, now: float) -> bool:
        return bool(
            lane.waiting and len(lane.flying) < self._each and not lane.failures and not self._is_slow(lane, now)
        )

    def _is_slow(self, lane: _Lane, now: float) -> bool:
        return any(began <= now - self._slow_after_seconds for began in lane.flying.values())

    def _forget_if_empty(self, endpoint_id: str) -> None:
        lane = self._lanes.get(endpoint_id)
        if lane is not None and lane.is_empty:
            del self._lanes[endpoint_id]
