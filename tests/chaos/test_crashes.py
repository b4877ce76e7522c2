"""The worker is killed with SIGKILL at each request, before and after it took effect, forward and in the undo."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

from tests.support.chaos_audit import Verdict, audit
from tests.support.chaos_plans import ALL_IN_A_ROW, UNSAFE, chaos_plan
from tests.support.chaos_sandbox import PHASES, Phase, Point
from tests.support.chaos_stage import ChaosStage, Story
from wedsync.vendors.registry import load_registry

_FORWARD = (
    ("venue", "generic", "request"),
    ("venue", "generic", "confirm"),
    ("photos", "vsco", "create_job"),
    ("photos", "vsco", "add_event"),
    ("deposit", "stripe", "create_intent"),
    ("deposit", "stripe", "confirm_intent"),
    ("balance", "paypal", "create_order"),
    ("balance", "paypal", "capture_order"),
    ("diary", "google_calendar", "insert_event"),
    ("office", "microsoft_graph", "create_event"),
    ("letter", "resend", "send_email"),
    ("text", "twilio", "send_message"),
    ("bulletin", "sendgrid", "send_mail"),
    ("ping", "vonage", "send_sms"),
)
_UNDO = (
    ("venue", "generic", "cancel"),
    ("photos", "vsco", "delete_event"),
    ("photos", "vsco", "delete_job"),
    ("deposit", "stripe", "release_payment"),
    ("balance", "paypal", "release_payment"),
    ("diary", "google_calendar", "delete_event"),
    ("office", "microsoft_graph", "delete_event"),
    ("letter", "resend", "send_email"),
    ("text", "twilio", "send_message"),
    ("bulletin", "sendgrid", "send_mail"),
    ("ping", "vonage", "send_sms"),
)
_EXACT_UNDOS = frozenset(_UNDO[:7])
_SAMPLE = (
    (Point("deposit", "stripe", "confirm_intent", "committed"), Point("deposit", "stripe", "release_payment", "lost")),
    (Point("diary", "google_calendar", "insert_event", "lost"), Point("photos", "vsco", "delete_job", "committed")),
)
#: A vendor that was asked in vain four times would be left for the next, and its points with it.
_NO_FALLBACK: dict[str, dict[str, Any]] = {"deposit": {"fallbacks": []}, "text": {"fallbacks": []}}
_AT_ONCE = 8
_PATIENCE_SECONDS = 1200


def _points(operations: tuple[tuple[str, str, str], ...]) -> list[Point]:
    draws = random.Random(7)
    return [
        Point(*operation, phase=phase, delay_ms=draws.randrange(40) if phase == "answered" else 0)
        for operation in operations
        for phase in PHASES
    ]


def _pairs(full: bool) -> list[tuple[Point, Point | None]]:
    """A point forward and one in the undo for each wedding; some undo without a kill."""
    if not full:
        return list(_SAMPLE)
    undo = _points(_UNDO)
    return [(point, undo[i] if i < len(undo) else None) for i, point in enumerate(_points(_FORWARD))]


def _forward_faults(story: Story) -> list[str]:
    """Only what can neither be replayed nor found may be held, and then because its outcome is unknown."""
    found = []
    for step_id, step in story.steps.items():
        if step.status == "succeeded":
            continue
        is_reported = step_id in UNSAFE and step.status == "held" and step.error["code"] == "outcome_unknown"
        if not is_reported:
            found.append(f"{story.number} {step_id} is {step.status}: {step.error}")
    return found


def _undo_faults(story: Story, committed: Counter[tuple[str, str, str, str]]) -> list[str]:
    """Each exact undo took effect once; only unsafe counter-messages may need attention."""
    found = []
    for step_id, vendor, operation in sorted(_EXACT_UNDOS):
        times = committed[(story.id, step_id, vendor, operation)]
        if times != 1:
            found.append(f"{story.number} {step_id}: {operation} took effect {times} times")
    for step_id, step in story.steps.items():
        status = (step.compensation or {}).get("status")
        # An undo whose answer got lost finds nothing left when it is asked again; the audit sees to the rest.
        allowed = {"undone", "nothing_to_undo"} | ({"needs_attention"} if step_id in UNSAFE else set())
        if status not in allowed:
            found.append(f"{story.number} {step_id}: undo is {status}: {step.compensation}")
    return found


def _is_held(story: Story, point: Point) -> bool:
    """A neighbour's kill cut the call short before it was sent: nobody may send it again, so the point never comes."""
    return point.step_id in UNSAFE and story.steps[point.step_id].status == "held"


async def _live(chaos: ChaosStage, number: int, forward: Point, undo: Point | None, gate: asyncio.Semaphore) -> Verdict:
    """One wedding, killed under on its way forward and again on its way back."""
    manifests, verdict = load_registry().manifests, Verdict()
    async with gate:
        story = await chaos.story(number, chaos_plan(number, ALL_IN_A_ROW, **_NO_FALLBACK))
        chaos.sandbox.arm(story.id, forward)
        await chaos.orchestrate(story)
        if verdict.stuck(await chaos.settled(story, _PATIENCE_SECONDS)):
            return verdict
        verdict.unexplained += _forward_faults(story)
        if chaos.sandbox.disarm(story.id) and not _is_held(story, forward):
            verdict.unexplained.append(f"{number}: never came to {forward}")
        verdict.add(audit(story, chaos.held(story), (), manifests))
        if undo is not None and not _is_held(story, undo):
            chaos.sandbox.arm(story.id, undo)
        await chaos.undo(story)
        if verdict.stuck(await chaos.settled(story, _PATIENCE_SECONDS)):
            return verdict
        if chaos.sandbox.disarm(story.id):
            verdict.unexplained.append(f"{number}: never came to {undo}")
        verdict.unexplained += _undo_faults(story, chaos.sandbox.committed())
        verdict.add(audit(story, chaos.held(story), (), manifests))
    return verdict


async def test_a_killed_worker_loses_nothing_and_does_nothing_twice(
    chaos: ChaosStage, full: bool, report: list[dict[str, object]]
) -> None:
    started = time.monotonic()
    gate, total = asyncio.Semaphore(_AT_ONCE), Verdict()
    pairs = _pairs(full)
    async with asyncio.TaskGroup() as group:
        lives = [
            group.create_task(_live(chaos, 1000 + i, forward, undo, gate)) for i, (forward, undo) in enumerate(pairs)
        ]
    for life in lives:
        total.add(life.result())
    points = len(chaos.sandbox.struck)
    report.append(
        {
            "run": "crashes",
            "points": points,
            "kills": chaos.worker.kills,
            "completed": len(pairs),
            "duplicates": len(total.duplicates),
            "unaccounted": len(total.unaccounted),
            "seconds": round(time.monotonic() - started),
        }
    )
    assert total.all == [], "\n".join(total.all)
    assert points >= (30 if full else 4)
    assert chaos.worker.kills == points


def test_the_whole_run_kills_at_each_phase_of_each_request() -> None:
    pairs = _pairs(full=True)
    struck = [*(forward for forward, _ in pairs), *(undo for _, undo in pairs if undo is not None)]
    phases: dict[tuple[str, str, str], set[Phase]] = {}
    for point in struck:
        phases.setdefault((point.step_id, point.vendor, point.operation), set()).add(point.phase)
    assert len(struck) == 75
    assert all(found == set(PHASES) for found in phases.values())
