"""A call that takes effect after its caller has given up is undone all the same when the wedding is rolled back."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.chaos_audit import Verdict, audit
from tests.support.chaos_plans import chaos_plan
from tests.support.chaos_stage import ChaosStage
from wedsync.vendors.registry import load_registry

#: Longer than the HTTP timeout of the short stage, shorter than its start-to-close and settling time together.
_LATE_MS = 5000
_CALLS = (
    ("venue", "generic", "request"),
    ("venue", "generic", "confirm"),
    ("photos", "vsco", "create_job"),
    ("photos", "vsco", "add_event"),
    ("deposit", "stripe", "create_intent"),
    ("deposit", "stripe", "confirm_intent"),
    ("balance", "paypal", "create_order"),
    ("balance", "paypal", "capture_order"),
    ("office", "microsoft_graph", "create_event"),
)


_FAULTS: tuple[dict[str, Any], ...] = ({"mode": "slow", "delay_ms": _LATE_MS}, {"mode": "commit_then_drop"})


async def _live(
    chaos: ChaosStage, number: int, step_id: str, vendor: str, operation: str, fault: dict[str, Any]
) -> list[str]:
    story = await chaos.story(number, chaos_plan(number, {step_id: [], "diary": []}))
    if fault["mode"] == "commit_then_drop":
        # The answer gets lost just before the transaction stops.
        await chaos.sandbox.faults(vendor, wedding_id=story.id, mode="slow", delay_ms=1000)
    await chaos.sandbox.faults(vendor, wedding_id=story.id, operation=operation, times=1, **fault)
    # By then the other call is under way; both are critical.
    await chaos.sandbox.faults("google_calendar", wedding_id=story.id, mode="slow", delay_ms=2500)
    await chaos.sandbox.faults("google_calendar", wedding_id=story.id, mode="refuse", operation="insert_event")
    await chaos.orchestrate(story)
    verdict = Verdict()
    verdict.stuck(await chaos.settled(story, 90))
    if story.status != "rolled_back":
        verdict.unexplained.append(f"{operation}: {story.status}: {story.steps[step_id].compensation}")
    verdict.add(audit(story, chaos.held(story), (), load_registry().manifests))
    return [f"{vendor} {operation} {fault['mode']}: {found}" for found in verdict.all]


async def test_what_took_effect_late_is_undone(open_stage: object) -> None:
    async with open_stage(timeout_seconds=3.0, settling_seconds=3.0, open_seconds=2.0) as chaos:  # type: ignore[operator]
        lives = (
            _live(chaos, 2000 + 100 * j + i, *call, fault=fault)
            for i, call in enumerate(_CALLS)
            for j, fault in enumerate(_FAULTS)
        )
        found = [fault for faults in await asyncio.gather(*lives) for fault in faults]
    assert found == []
