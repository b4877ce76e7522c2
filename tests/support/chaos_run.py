"""Runs many weddings under seeded faults and collects their outcomes."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.chaos_audit import Verdict, audit
from tests.support.chaos_faults import Faults
from tests.support.chaos_plans import chaos_plan
from tests.support.chaos_stage import ChaosStage, Story
from wedsync.domain.plans.plan import Plan
from wedsync.vendors.registry import load_registry

#: A sample shows what did not settle before its test's own time is up.
_PATIENCE_SECONDS = 600 if os.environ.get("WEDSYNC_CHAOS") == "full" else 240
#: Venue and photographer answer by webhook, the deposit by the payment vendor's; what can't be undone comes last.
NEEDS: dict[str, list[str]] = {
    "venue": [],
    "photos": [],
    "deposit": ["venue"],
    "diary": ["venue"],
    "letter": ["deposit", "photos"],
    "text": ["deposit"],
}


def plan_of(number: int) -> Plan:
    """Return six steps that are done or undone, and may be waited for as long as it takes."""
    return chaos_plan(number, NEEDS)


def impatient_plan_of(number: int, deposit: str = "20s") -> Plan:
    """The same, with an email that can't be asked about, and a deposit that is given up after a while."""
    return chaos_plan(
        number, {**NEEDS, "bulletin": ["deposit"]}, deposit={"timeout": deposit}, venue={"timeout": "60s"}
    )


def lasting_plan_of(number: int) -> Plan:
    """The same, with a deposit that outlasts each fault that ends, on a slow machine, too.

    The waits between the tries of such a fault come to 19 s at most: with 20 s for the deposit the calls' own time
    decides whether one is completed or held.
    """
    return impatient_plan_of(number, deposit="60s")


@dataclass
class Outcome:
    """Result of a run."""

    stories: list[Story] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    @property
    def statuses(self) -> Counter[str]:
        """Count each status."""
        return Counter(story.status for story in self.stories)

    def incomplete(self) -> list[str]:
        """List what did not complete, step by step, with the reason given."""
        return [
            f"{story.number} {story.status}: {step.step_id} {step.status} at {step.vendor}: {step.error}"
            for story in self.stories
            if story.status != "completed"
            for step in story.steps.values()
            if step.status != "succeeded"
        ]

    def row(self, run: str, kills: int) -> dict[str, object]:
        """Return a row of the report."""
        statuses = self.statuses
        return {
            "run": run,
            "seeds": len(self.stories),
            "kills": kills,
            "completed": statuses["completed"],
            "held": statuses["held"],
            "rolled back": statuses["rolled_back"],
            "attention": statuses["needs_attention"],
            "duplicates": len(self.verdict.duplicates),
            "unaccounted": len(self.verdict.unaccounted),
            "seconds": round(self.seconds),
        }


async def run_seeds(
    chaos: ChaosStage,
    seeds: Iterable[int],
    faults_of: Callable[[int], Faults],
    plan_of: Callable[[int], Plan],
    *,
    at_once: int,
    undoes: Callable[[int], bool] = lambda _: False,
    offset: int = 0,
) -> Outcome:
    """Run one wedding for each seed; undo those that `undoes` chooses once they have settled.

    `offset` keeps the businesses and phones of two runs apart.
    """
    started, gate, outcome = time.monotonic(), asyncio.Semaphore(at_once), Outcome()
    manifests = load_registry().manifests

    async def live(seed: int) -> tuple[Story, Verdict]:
        async with gate:
            story = await chaos.story(seed, plan_of(seed + offset))
            await faults_of(seed).put(chaos.sandbox, story.id)
            await chaos.orchestrate(story)
            verdict = Verdict()
            if verdict.stuck(await chaos.settled(story, _PATIENCE_SECONDS)):
                return story, verdict
            if undoes(seed) and story.status in ("completed", "held"):
                verdict.add(audit(story, chaos.held(story), await chaos.rechecks(story), manifests))
                await chaos.undo(story)
                verdict.stuck(await chaos.settled(story, _PATIENCE_SECONDS))
            verdict.add(audit(story, chaos.held(story), await chaos.rechecks(story), manifests))
            return story, verdict

    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(live(seed)) for seed in seeds]
    for life in lives:
        story, verdict = life.result()
        outcome.stories.append(story)
        outcome.verdict.add(verdict)
    outcome.seconds = time.monotonic() - started
    return outcome


def tale(chaos: ChaosStage, story: Story) -> dict[str, object]:
    """Return what a run must repeat: statuses and effects, without ids and times."""
    steps = {
        step_id: (
            step.status,
            step.vendor,
            step.fallback_used,
            (step.error or {}).get("code"),
            (step.compensation or {}).get("status"),
        )
        for step_id, step in sorted(story.steps.items())
    }
    effects = sorted((vendor, e.operation, e.step_id or "", e.state) for vendor, e in chaos.held(story))
    return {"status": story.status, "steps": steps, "effects": effects}


def tempo(story: Story) -> dict[str, str]:
    """When each step ended, in seconds since it began, and after how many attempts: why two tales may differ."""
    return {
        step_id: f"{(step.ended_at - step.started_at).total_seconds():.1f} s, {step.attempts} attempts"
        for step_id, step in sorted(story.steps.items())
        if step.started_at and step.ended_at
    }
