"""Answers get lost after the deed: no couple is charged twice, and every charge is accounted for."""

from __future__ import annotations

from tests.support.chaos_faults import ambiguity
from tests.support.chaos_run import impatient_plan_of, run_seeds
from tests.support.chaos_stage import ChaosStage

_SEEDS, _SAMPLE = 200, 10


def _undoes(seed: int) -> bool:
    return seed % 3 == 0


async def test_no_couple_is_charged_twice_and_no_charge_is_unaccounted_for(
    forgiving_chaos: ChaosStage, full: bool, report: list[dict[str, object]]
) -> None:
    seeds = range(1, (_SEEDS if full else _SAMPLE) + 1)
    outcome = await run_seeds(forgiving_chaos, seeds, ambiguity, impatient_plan_of, at_once=25, undoes=_undoes)
    report.append(outcome.row("ambiguity", forgiving_chaos.worker.kills))
    assert outcome.verdict.all == [], "\n".join(outcome.verdict.all)
    assert sum(outcome.statuses.values()) == len(seeds)
    # Both of it came up: what was lost and found again, and what nobody can ask about.
    assert outcome.statuses["completed"] > 0
    assert outcome.statuses["held"] + outcome.statuses["needs_attention"] > 0
