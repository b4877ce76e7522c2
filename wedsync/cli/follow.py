"""Follows a wedding until its transaction has settled: events wake it, the API's present state decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wedsync.cli.client import ApiClient, StreamEvent, gather_quietly
from wedsync.cli.output import UNREACHABLE, CliError

#: Nothing more happens by itself, ever.
SETTLED = frozenset({"completed", "rolled_back", "held", "needs_attention", "cancelled"})
#: Something runs, or waits for a vendor's confirmation or a person.
OPEN = frozenset({"running", "rolling_back", "waiting"})
#: A wedding with this status has no more life.
WEDDING_OVER = frozenset({"cancelled", "ended"})

#: Read again without any event, in case one was lost.
_POLL_SECONDS = 2.0
#: Several events close together cause one read.
_GATHER_SECONDS = 0.1
#: How long the API may stay silent before a follower gives up.
_PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Snapshot:
    """A wedding as the API shows it at one moment; `transaction` is the one followed, if any."""

    wedding: dict[str, Any]
    transaction: dict[str, Any]

    @property
    def status(self) -> str:
        """Return the followed transaction's status."""
        return str(self.transaction.get("status", ""))

    @property
    def settled(self) -> bool:
        """Tell whether the followed transaction can't go on by itself."""
        return self.status in SETTLED

    @property
    def steps(self) -> list[dict[str, Any]]:
        """List the wedding's steps in the plan's order; what the followed transaction says of them wins."""
        mine = {step["id"]: step for step in self.transaction.get("steps") or []}
        all_steps = [mine.pop(step["id"], step) for step in self.wedding.get("steps") or []]
        return all_steps + list(mine.values())

    @property
    def zone(self) -> str:
        """Return the venue's IANA zone."""
        return str(self.wedding["ceremony"]["zone"])


OnChange = Callable[[Snapshot], None]
OnEvent = Callable[[StreamEvent], None]


class Follower:
    """Follows one wedding, and in it perhaps one transaction."""

    def __init__(self, client: ApiClient, wedding_id: str, transaction_id: str | None = None) -> None:
        self._client = client
        self._wedding_id = wedding_id
        self._transaction_id = transaction_id
        self._wake = asyncio.Event()
        self._last_event = 0

    async def poll(self) -> Snapshot:
        """Read the present state."""
        wedding = await self._client.get(f"/weddings/{self._wedding_id}")
        transaction_id = self._transaction_id or newest_transaction_id(wedding)
        transaction: dict[str, Any] = {}
        if transaction_id:
            transaction = await self._client.get(f"/weddings/{self._wedding_id}/transactions/{transaction_id}")
        return Snapshot(wedding, transaction)

    async def until(
        self,
        done: Callable[[Snapshot], bool],
        *,
        timeout_seconds: float | None,
        on_change: OnChange | None = None,
        on_event: OnEvent | None = None,
    ) -> Snapshot:
        """Return the first state that is `done`, or the newest one when the time is up.

        Raises CliError when the wedding is not there (6) or the API stays silent for 15 s (7).
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        first = await self.poll()
        if on_change:
            on_change(first)
        listener = asyncio.create_task(self._listen(on_event))
        try:
            return await self._loop(first, done, deadline, on_change)
        finally:
            await gather_quietly(listener)

    async def _loop(
        self, snapshot: Snapshot, done: Callable[[Snapshot], bool], deadline: float | None, on_change: OnChange | None
    ) -> Snapshot:
        while not done(snapshot):
            left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return snapshot
            if await self._woken(left):
                await asyncio.sleep(_GATHER_SECONDS)
            self._wake.clear()
            snapshot = await self._poll_patiently()
            if on_change:
                on_change(snapshot)
        return snapshot

    async def _woken(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _poll_patiently(self) -> Snapshot:
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await self.poll()
            except CliError as error:
                if error.exit_code != UNREACHABLE or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(0.5)

    async def _listen(self, on_event: OnEvent | None) -> None:
        while True:
            try:
                async for event in self._client.events(self._wedding_id, self._last_event):
                    self._last_event = max(self._last_event, event.id)
                    if on_event:
                        on_event(event)
                    self._wake.set()
            except CliError:
                # The reads show whether the API is gone; the stream is only quicker.
                pass
            await asyncio.sleep(0.5)


def newest_transaction_id(wedding: dict[str, Any]) -> str | None:
    """Return the id of the wedding's newest transaction; the API lists the oldest first, and ids have no order."""
    known = wedding["transactions"]
    return str(known[-1]["id"]) if known else None
