"""A process of its own that calls at once, many times: `python -m tests.support.routing_process URL CALLS`.

Waits for a line on its standard input before each volley, and reports after it how many calls went out
as probes, how many passed, how many were refused.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from tests.support.peers import report
from tests.support.routing import a_call, eventually, open_switchboard
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing.circuit import phase
from wedsync.kit.clock import utc_now
from wedsync.usecases.routing.switchboard import Switchboard


async def call_once(board: Switchboard, gate: asyncio.Event, number: int) -> str:
    """Make one call; a probe succeeds once all have asked."""
    call = a_call(wedding_id=f"w{number}")
    try:
        ticket = await board.admit(call)
    except VendorUnavailable:
        return "refused"
    if ticket.probe is not None:
        await gate.wait()
    await board.settle(ticket, call, "send", None, 0.01)
    return "probe" if ticket.probe is not None else "passed"


async def volley(board: Switchboard, calls: int) -> Counter[str]:
    # The notification may come later than the start line.
    await eventually(lambda: phase(board.book.circuit("stripe", "default"), utc_now()) == "half_open")
    gate = asyncio.Event()
    tasks = [asyncio.create_task(call_once(board, gate, number)) for number in range(calls)]
    await asyncio.wait(tasks, timeout=0.3)
    gate.set()
    return Counter(await asyncio.gather(*tasks))


async def main() -> None:
    """Serve volleys until standard input ends."""
    loop = asyncio.get_running_loop()
    async with open_switchboard(sys.argv[1]) as board:
        report("ready")
        while await loop.run_in_executor(None, sys.stdin.readline):
            report(await volley(board, int(sys.argv[2])))


if __name__ == "__main__":
    asyncio.run(main())
