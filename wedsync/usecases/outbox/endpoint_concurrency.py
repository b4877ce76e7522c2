"""Track what one process has in hand for each endpoint, and how much more of it may be claimed.

Few requests to an endpoint are under way at once. The process claims ahead for one that answers well, more with
each answer, so that one query claims many; it gives back what waits for one that is slow or fails.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from wedsync.store.outbox.deliveries import Claimed


class _EndpointSlots:
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


class EndpointConcurrency:
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
        self._slots: dict[str, _EndpointSlots] = {}
        self._young: deque[tuple[float, str, str]] = deque()
        self.waiting = 0
        self.flying = 0

    def add(self, item: Claimed) -> None:
        """Take a claimed delivery in hand."""
        self._slots_of(item).waiting.append((self._clock(), item))
        self.waiting += 1

    def acquire(self, most: int) -> list[Claimed]:
        """Start up to `most` deliveries whose turn it is, one of each endpoint in turn; return them."""
        acquired: list[Claimed] = []
        now = self._clock()
        ready = [slots for slots in self._slots.values() if self._is_ready(slots, now)] if self.waiting else []
        while ready and len(acquired) < most:
            for slots in ready[: most - len(acquired)]:
                _, item = slots.waiting.popleft()
                slots.flying[item.id] = now
                self._young.append((now, item.subscription_id, item.id))
                acquired.append(item)
            ready = [slots for slots in ready if slots.waiting and len(slots.flying) < self._each]
        self.waiting -= len(acquired)
        self.flying += len(acquired)
        return acquired

    def landed(self, item: Claimed, *, is_well: bool) -> None:
        """Note that a request ended."""
        slots = self._slots[item.subscription_id]
        del slots.flying[item.id]
        self.flying -= 1
        slots.unrecorded += 1
        if not is_well:
            slots.failures += 1
            slots.window = self._each
        elif not slots.failures and item.rate_per_second is None and item.pace_per_second is None:
            slots.window = min(self._ahead, slots.window + 1)

    def lost(self, item: Claimed) -> None:
        """Note that a request was broken off; nothing is known of it."""
        slots = self._slots[item.subscription_id]
        if slots.flying.pop(item.id, None) is not None:
            self.flying -= 1
        self._forget_if_empty(item.subscription_id)

    def recorded(self, item: Claimed, *, is_well: bool) -> None:
        """Note that an answer is recorded."""
        slots = self._slots[item.subscription_id]
        slots.unrecorded -= 1
        slots.failures -= not is_well
        self._forget_if_empty(item.subscription_id)

    def give_back(self, *, all_of_it: bool = False) -> list[Claimed]:
        """Take back what should not wait here longer: for slow and failing endpoints, or for too long."""
        if not self.waiting:
            return []
        now, returned = self._clock(), []
        for subscription_id, slots in list(self._slots.items()):
            if not slots.waiting:
                continue
            is_stale = slots.waiting[0][0] < now - self._hold_seconds
            if all_of_it or is_stale or slots.failures or self._is_slow(slots, now):
                returned += [item for _, item in slots.waiting]
                slots.waiting.clear()
                slots.window = self._each
                self._forget_if_empty(subscription_id)
        self.waiting -= len(returned)
        return returned

    def room(self) -> dict[str, int]:
        """Count how many more may be claimed for endpoints with something in hand: none while one request is slow."""
        now = self._clock()
        return {subscription_id: self._room_of(slots, now) for subscription_id, slots in self._slots.items()}

    def wants(self, subscription_id: str) -> bool:
        """Tell whether more may be claimed for an endpoint that has or had something in hand."""
        slots = self._slots.get(subscription_id)
        return slots is None or self._room_of(slots, self._clock()) > 0

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
        slots = self._slots.get(entry[1])
        return slots is not None and entry[2] in slots.flying

    def _slots_of(self, item: Claimed) -> _EndpointSlots:
        slots = self._slots.get(item.subscription_id)
        if slots is None:
            slots = self._slots[item.subscription_id] = _EndpointSlots(self._each)
        return slots

    def _room_of(self, slots: _EndpointSlots, now: float) -> int:
        # Until a failure is recorded its endpoint may turn out to be failing.
        if slots.failures or self._is_slow(slots, now):
            return 0
        held = len(slots.flying) + len(slots.waiting)
        if slots.window == self._each:
            return max(0, self._each - held - slots.unrecorded)
        # Many at once, or each costs a query.
        return slots.window - held if held <= slots.window // 2 else 0

    def _is_ready(self, slots: _EndpointSlots, now: float) -> bool:
        return bool(
            slots.waiting and len(slots.flying) < self._each and not slots.failures and not self._is_slow(slots, now)
        )

    def _is_slow(self, slots: _EndpointSlots, now: float) -> bool:
        return any(began <= now - self._slow_after_seconds for began in slots.flying.values())

    def _forget_if_empty(self, subscription_id: str) -> None:
        slots = self._slots.get(subscription_id)
        if slots is not None and slots.is_empty:
            del self._slots[subscription_id]
