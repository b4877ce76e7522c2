"""What is recorded of steps before they are bound: instants, specs, signed links."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.plans import booking, email, event, plan
from tests.support.stage import Staged
from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.fill_inputs import facts_of, materialize
from wedsync.domain.weddings.binding import Preparation, bind
from wedsync.domain.weddings.closing import LONGEST_CLOSING
from wedsync.domain.weddings.ledger import Binding
from wedsync.kit.settings import Settings
from wedsync.usecases.plans.load import LoadPlan, PlanShelf, load_plan
from wedsync.usecases.weddings.answer_link import read_link
from wedsync.usecases.weddings.links import link_maker
from wedsync.usecases.weddings.prepare_steps import PrepareSteps, StepAtVendor, prepare_steps

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def prepare(shelf: PlanShelf, settings: Settings) -> Any:
    async def prepared(wedding: Staged, *steps: tuple[str, str], **more: Any) -> Preparation:
        wanted = PrepareSteps(
            organization_id=wedding.organization_id, wedding_id=wedding.id, transaction_id="tx",
            plan_version=more.pop("plan_version", 1), now=NOW,
            steps=tuple(StepAtVendor(step_id=step, vendor=vendor) for step, vendor in steps), **more,
        )  # fmt: skip
        return await prepare_steps(shelf, link_maker(settings), wanted)

    return prepared


def bound(wedding: Staged, given: Preparation, step_id: str, vendor: str, **results: Any) -> Binding:
    steps = {step.id: step for step in compile_plan(wedding.plan, wedding.stage.registry.manifests)}
    return bind(
        steps[step_id], vendor, 1, given, facts_of(wedding.plan), results, wedding_id=wedding.id, transaction_id="tx",
        now=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(("step_id", "vendor"), [("venue", "generic"), ("venue", "vsco"), ("event", "google_calendar")])
async def test_what_was_prepared_gives_the_inputs_that_the_plan_means(
    wedding: Staged, prepare: Any, step_id: str, vendor: str
) -> None:
    given = await prepare(wedding, (step_id, vendor))
    made = bound(wedding, Preparation.model_validate_json(given.model_dump_json()), step_id, vendor)
    steps = {step.id: step for step in compile_plan(wedding.plan, wedding.stage.registry.manifests)}
    assert made.inputs == materialize(steps[step_id], vendor, wedding.plan, {})
    manifest = wedding.stage.registry.manifests[vendor]
    assert (made.spec, made.timeout_seconds) == (manifest.action(steps[step_id].action), manifest.timeout_seconds)
    assert made.account == {"generic": "villa", "vsco": "default"}.get(vendor, made.account)
    assert made.manual_link == ""


async def test_a_start_by_another_steps_result_is_prepared_when_that_is_known(wedding: Staged, prepare: Any) -> None:
    later = await wedding.stage.wedding(
        plan(booking("venue"), event(starts="${venue.starts}", needs=["venue"]), email())
    )
    early = await prepare(later, ("event", "google_calendar"), ("email", "resend"))
    assert (early.covers("event", "google_calendar"), early.covers("email", "resend")) == (False, True)
    results = {"venue": {"starts": later.plan.wedding.ceremony.at}}
    late = await prepare(later, ("event", "google_calendar"), results=results)
    assert late.covers("event", "google_calendar")
    made = bound(later, early.plus(late), "event", "google_calendar", **results)
    steps = {step.id: step for step in compile_plan(later.plan, later.stage.registry.manifests)}
    assert made.inputs == materialize(steps["event"], "google_calendar", later.plan, results)


async def test_a_start_that_cannot_be_is_recorded_and_refused_when_it_is_bound(wedding: Staged, prepare: Any) -> None:
    later = await wedding.stage.wedding(plan(booking("venue"), event(starts="${venue.starts}", needs=["venue"])))
    results = {"venue": {"starts": "2027-03-28T02:30"}}
    given = await prepare(later, ("event", "google_calendar"), results=results)
    assert given.covers("event", "google_calendar")
    with pytest.raises(InvalidInput) as caught:
        bound(later, given, "event", "google_calendar", **results)
    assert (caught.value.field, caught.value.reason) == ("starts", "nonexistent_time")


@pytest.mark.parametrize("vendor", ["stripe", "nobody"])
async def test_a_vendor_that_cannot_do_it_is_prepared_as_one_that_cannot(
    wedding: Staged, prepare: Any, vendor: str
) -> None:
    given = await prepare(wedding, ("venue", vendor))
    assert given.covers("venue", vendor)
    with pytest.raises(InvalidInput) as caught:
        bound(wedding, given, "venue", vendor)
    assert caught.value.reason == "vendor_cannot"


async def test_a_hands_link_is_good_until_the_wedding_can_no_longer_be_closing(
    wedding: Staged, prepare: Any, shelf: PlanShelf, settings: Settings
) -> None:
    link = bound(wedding, await prepare(wedding, ("venue", "honeybook")), "venue", "honeybook").manual_link
    opened = read_link(link.rpartition("/")[2], settings)
    loaded = await load_plan(shelf, LoadPlan(organization_id=wedding.organization_id, wedding_id=wedding.id, version=1))
    assert (opened.link.wedding_id, opened.link.step_id) == (wedding.id, "venue")
    assert opened.expires_at == loaded.ends_at + LONGEST_CLOSING


async def test_of_a_plan_that_is_not_there_nothing_is_prepared(wedding: Staged, prepare: Any) -> None:
    with pytest.raises(NotFound):
        await prepare(wedding, ("venue", "generic"), plan_version=9)


async def test_the_same_is_prepared_each_time(wedding: Staged, prepare: Any) -> None:
    assert await prepare(wedding, ("venue", "generic")) == await prepare(wedding, ("venue", "generic"))
