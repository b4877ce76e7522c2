"""The worker is killed around each of our own activities, forward and back, and while a request is handed over."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Literal

from tests.chaos.conftest import Open, times
from tests.support.chaos_audit import Verdict, audit
from tests.support.chaos_plans import chaos_plan
from tests.support.chaos_points import ActivityPoint, Moment
from tests.support.chaos_stage import ChaosStage, Story
from wedsync.domain.weddings.messages import REPAIR_UPDATE
from wedsync.vendors.registry import load_registry

#: Five steps side by side where they can be; what waits for a vendor's word splits them into several transactions.
_NEEDS: dict[str, list[str]] = {
    "venue": [],
    "photos": [],
    "deposit": ["venue"],
    "diary": ["venue"],
    "letter": ["deposit", "photos"],
}
_MOMENTS: tuple[Moment, ...] = ("begun", "amid", "done")
_FORWARD = (
    ("wedding.begin_transaction", 1),
    ("wedding.begin_transaction", 2),
    ("wedding.prepare_steps", 1),
    ("vendor.call", 1),
    ("vendor.call", 5),
    ("wedding.settle_transaction", 1),
    ("wedding.settle_transaction", 2),
    ("wedding.record", 1),
)
_UNDO = (
    ("wedding.begin_transaction", 1),
    ("wedding.show_progress", 1),
    ("vendor.call", 1),
    ("vendor.call", 4),
    ("wedding.settle_transaction", 1),
)


@dataclass(frozen=True)
class HandOver:
    """A kill while a request is handed over: before it, so many milliseconds after it began, after it, or never told.

    untold: who recorded the request died before it told anybody; the sweep tells.
    """

    moment: Literal["before", "amid", "after", "untold"]
    delay_ms: int = 0


Kill = ActivityPoint | HandOver


def _kills(activities: tuple[tuple[str, int], ...]) -> list[Kill]:
    draws = random.Random(11)
    hand_overs = [HandOver("before"), HandOver("amid", draws.randrange(20)), HandOver("after"), HandOver("untold")]
    return [
        *(ActivityPoint(name, at, nth, draws.randrange(1, 8)) for name, nth in activities for at in _MOMENTS),
        *hand_overs,
    ]


def _pairs(full: bool) -> list[tuple[Kill, Kill | None]]:
    """A kill on the way forward and one on the way back for each wedding; some way back without one."""
    if not full:
        return [
            (ActivityPoint("wedding.settle_transaction", "done", 2), ActivityPoint("wedding.show_progress", "amid")),
            (ActivityPoint("vendor.call", "begun", 1), HandOver("amid", 5)),
        ]
    forward, undo = _kills(_FORWARD), _kills(_UNDO)
    return [(kill, undo[i] if i < len(undo) else None) for i, kill in enumerate(forward)]


async def _ask(chaos: ChaosStage, story: Story, kind: Literal["orchestrate", "undo"], kill: Kill | None) -> None:
    ask = chaos.orchestrate if kind == "orchestrate" else chaos.undo
    if not isinstance(kill, HandOver):
        if kill is not None:
            chaos.sandbox.points.arm(story.id, kill)
        await ask(story)
        return
    if kill.moment == "before":
        chaos.worker.kill()
    if kill.moment == "amid":
        asyncio.get_running_loop().call_later(kill.delay_ms / 1000, chaos.worker.kill)
    await ask(story, undispatched=kill.moment == "untold")
    if kill.moment in ("after", "untold"):
        chaos.worker.kill()


def _faults(story: Story, status: str, undo: bool) -> list[str]:
    """A kill is no reason for anything but what was asked for."""
    found = [] if story.status == status else [f"{story.number} is {story.status}, not {status}"]
    for step_id, step in story.steps.items():
        if not undo and step.status != "succeeded":
            found.append(f"{story.number} {step_id} is {step.status}: {step.error}")
        if undo and (step.compensation or {}).get("status") not in ("undone", "nothing_to_undo"):
            found.append(f"{story.number} {step_id}: its undo is {step.compensation}")
    return found


async def _repair(chaos: ChaosStage, story: Story) -> None:
    """Have the wedding write all anew, as an operator does: asked again until a worker answers."""
    async with asyncio.timeout(120):
        while True:
            try:
                await story.staged.handle.execute_update(REPAIR_UPDATE, result_type=int)
                return
            except chaos.undispatched:
                await asyncio.sleep(0.2)


async def _live(chaos: ChaosStage, number: int, forward: Kill, undo: Kill | None, gate: asyncio.Semaphore) -> Verdict:
    """One wedding, killed under on its way forward and again on its way back."""
    manifests, verdict = load_registry().manifests, Verdict()
    async with gate:
        story = await chaos.story(number, chaos_plan(number, _NEEDS))
        if isinstance(forward, ActivityPoint) and forward.activity == "wedding.prepare_steps":
            # What another vendor is bound by is read when the first one has refused.
            await chaos.sandbox.faults("stripe", wedding_id=story.id, mode="refuse", operation="confirm_intent")
        await _ask(chaos, story, "orchestrate", forward)
        if verdict.stuck(await chaos.settled(story, 600)):
            return verdict
        if isinstance(forward, ActivityPoint) and forward.activity == "wedding.record":
            await _repair(chaos, story)
        if chaos.sandbox.points.disarm(story.id):
            verdict.unexplained.append(f"{number}: never came to {forward}")
        verdict.unexplained += _faults(story, "completed", undo=False)
        verdict.add(audit(story, chaos.held(story), (), manifests))
        await _ask(chaos, story, "undo", undo)
        if verdict.stuck(await chaos.settled(story, 600)):
            return verdict
        if chaos.sandbox.points.disarm(story.id):
            verdict.unexplained.append(f"{number}: never came to {undo} on its way back")
        verdict.unexplained += _faults(story, "rolled_back", undo=True)
        verdict.add(audit(story, chaos.held(story), (), manifests))
    return verdict


async def test_a_worker_killed_around_its_own_records_loses_nothing_and_does_nothing_twice(
    open_stage: Open, full: bool, report: list[dict[str, object]]
) -> None:
    started, gate, total, pairs = time.monotonic(), asyncio.Semaphore(8), Verdict(), _pairs(full)
    async with open_stage(**times(full, asks=True)) as chaos:
        async with asyncio.TaskGroup() as group:
            lives = [
                group.create_task(_live(chaos, 3000 + i, forward, undo, gate))
                for i, (forward, undo) in enumerate(pairs)
            ]
        kills = chaos.worker.kills
    for life in lives:
        total.add(life.result())
    points = sum(1 + (undo is not None) for _, undo in pairs)
    report.append(
        {
            "run": "crashes in records",
            "points": points,
            "kills": kills,
            "completed": len(pairs),
            "duplicates": len(total.duplicates),
            "unaccounted": len(total.unaccounted),
            "seconds": round(time.monotonic() - started),
        }
    )
    assert total.all == [], "\n".join(total.all)
    assert kills == points


def test_the_whole_run_kills_around_each_activity_and_each_hand_over() -> None:
    kills = [kill for pair in _pairs(full=True) for kill in pair if kill is not None]
    activities: dict[tuple[str, int], list[Any]] = {}
    for kill in kills:
        if isinstance(kill, ActivityPoint):
            activities.setdefault((kill.activity, kill.nth), []).append(kill.moment)
    assert len(kills) == 3 * (len(_FORWARD) + len(_UNDO)) + 2 * 4
    assert all(set(moments) == set(_MOMENTS) for moments in activities.values())
