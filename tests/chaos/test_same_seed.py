"""The same seed gives the same story."""

from __future__ import annotations

from tests.support.chaos_faults import ambiguity
from tests.support.chaos_run import Outcome, lasting_plan_of, run_seeds, tale, tempo
from tests.support.chaos_stage import ChaosStage
from tests.support.routing import calm


def _undoes(seed: int) -> bool:
    return seed % 2 == 0


async def test_the_same_faults_give_the_same_statuses_and_effects(
    chaos: ChaosStage, full: bool, report: list[dict[str, object]]
) -> None:
    seeds = range(501, 551 if full else 506)
    runs: list[Outcome] = []
    # A circuit speaks of what all weddings met at that moment: without it a story hangs on its own faults alone.
    async with calm(chaos.stage.db):
        for offset in (0, 1000):
            run = await run_seeds(chaos, seeds, ambiguity, lasting_plan_of, at_once=50, undoes=_undoes, offset=offset)
            assert run.verdict.all == []
            runs.append(run)
    report.append(runs[1].row("same seed, twice", chaos.worker.kills))
    differing = [
        f"{one.number}: {tale(chaos, one)} at {tempo(one)}\n  and then {tale(chaos, other)} at {tempo(other)}"
        for one, other in zip(runs[0].stories, runs[1].stories, strict=True)
        if tale(chaos, one) != tale(chaos, other)
    ]
    assert not differing, "\n".join(differing)
