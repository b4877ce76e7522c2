"""A process of its own that calls at once, many times: `python -m tests.support.routing_process URL CALLS`.

Waits for a line on its standard input before each volley, and reports after it how many calls went out
as probes, how many passed, how many were refused.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from tests.support.peers import report
from tests.support.routing import a_call, eventually, open_admission_controller
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing.circuit_breaker import phase
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController


async def call_once(controller: AdmissionController, gate: asyncio.Event, number: int) -> str:
    """Make one call; a probe succeeds once all have asked."""
    call = a_call(wedding_id=f"w{number}")
    try:
        admission = await controller.admit(call)
    except VendorUnavailable:
        return "refused"
    if admission.probe is not None:
        await gate.wait()
    await controller.complete(admission, call, "send", None, 0.01)
    return "probe" if admission.probe is not None else "passed"


async def volley(controller: AdmissionController, calls: int) -> Counter[str]:
    # The notification may come later than the start line.
    await eventually(lambda: phase(controller.routing_table.circuit("stripe", "default"), utc_now()) == "half_open")
    gate = asyncio.Event()
    tasks = [asyncio.create_task(call_once(controller, gate, number)) for number in range(calls)]
    await asyncio.wait(tasks, timeout=0.3)
    gate.set()
    return Counter(await asyncio.gather(*tasks))


async def main() -> None:
    """Serve volleys until standard input ends."""
    loop = asyncio.get_running_loop()
    async with open_admission_controller(sys.argv[1]) as controller:
        report("ready")
        while await loop.run_in_executor(None, sys.stdin.readline):
            report(await volley(controller, int(sys.argv[2])))


if __name__ == "__main__":
    asyncio.run(main())
