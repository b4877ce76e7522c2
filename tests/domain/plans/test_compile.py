from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.compile import compile_plan, is_final
from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.plans.topology import ancestors, cycles, topological
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest

Compiled = Callable[[dict[str, Any]], dict[str, PlannedStep]]
VENUE, DEPOSIT, EVENT, EMAIL = range(4)


def email(id: str, **keys: Any) -> dict[str, Any]:
    inputs = {"to": "ana", "subject": "s", "text": "t"}
    return {"id": id, "action": "email.send", "service": "mail", "inputs": inputs} | keys


def event(id: str, **keys: Any) -> dict[str, Any]:
    inputs = {"title": "t", "starts": "ceremony"}
    return {"id": id, "action": "calendar.create_event", "service": "cal", "inputs": inputs} | keys


def test_defaults_are_filled_in(data: dict[str, Any], compiled: Compiled) -> None:
    steps = compiled(data)
    venue, mail = steps["venue"], steps["email"]
    assert (venue.timeout_seconds, mail.timeout_seconds) == (3600, 900)
    assert (venue.on_failure, mail.on_failure) == ("rollback", "continue")
    assert (venue.compensation_deadline_seconds, venue.decide_within_seconds) == (86400, 86400)
    assert (venue.critical, mail.critical) == (True, False)
    assert (venue.vendors, steps["deposit"].vendors) == (("generic",), ("stripe", "paypal"))
    assert (venue.account, mail.account) == ("villa", "default")
    assert (venue.capability, venue.endpoints, venue.real_time_updates) == ("booking", {}, False)


def test_what_the_plan_says_wins_over_defaults(data: dict[str, Any], compiled: Compiled) -> None:
    data["services"][0] |= {
        "account": "aurora",
        "real_time_updates": True,
        "api_endpoints": {"base_url": "https://x.test"},
    }
    data["steps"][VENUE] |= {
        "timeout": "2d", "on_failure": "hold", "decide_within": "3h", "otherwise": "retry", "fallbacks": ["vsco"],
        "compensation": {"deadline": "2h"}, "window": "ceremony", "early": True,
    }  # fmt: skip
    venue = compiled(data)["venue"]
    assert (venue.account, venue.real_time_updates, venue.endpoints) == ("aurora", True, {"base_url": "https://x.test"})
    assert (venue.timeout_seconds, venue.on_failure, venue.decide_within_seconds) == (172800, "hold", 10800)
    assert (venue.compensation_deadline_seconds, venue.vendors) == (7200, ("generic", "vsco"))
    assert (venue.window, venue.early, venue.otherwise) == ("ceremony", True, "retry")


def test_a_reference_and_an_anchor_are_needs(data: dict[str, Any], compiled: Compiled) -> None:
    data["services"][0]["critical"] = False
    data["steps"].append(event("later", at="event + 7d"))
    steps = compiled(data)
    assert steps["email"].needs == ("deposit",)
    assert steps["later"].needs == ("event",)


def test_a_step_for_several_services_becomes_one_for_each(data: dict[str, Any], compiled: Compiled) -> None:
    data["services"].append({"id": "cal-two", "name": "Zwei ${x}", "role": "other", "vendor": "google_calendar"})
    data["steps"].append(event("hold", inputs={"title": "${service.name} for ${wedding.couple}", "starts": "ceremony"}))
    del data["steps"][-1]["service"]
    data["steps"][-1]["services"] = ["cal", "cal-two"]
    data["steps"].append(event("after", needs=["hold"]))
    data["steps"].append(event("after-one", needs=["hold-cal-two"]))
    steps = compiled(data)
    assert steps["hold-cal"].service == "cal"
    assert steps["hold-cal"].inputs["title"] == "Cal for ${wedding.couple}"
    assert steps["hold-cal-two"].inputs["title"] == "Zwei $${x} for ${wedding.couple}"
    assert steps["after"].needs == ("hold-cal", "hold-cal-two")
    assert steps["after-one"].needs == ("hold-cal-two",)


def test_a_service_waits_for_those_it_depends_on_but_not_for_their_later_steps(
    data: dict[str, Any], compiled: Compiled
) -> None:
    data["services"][2]["depends_on"] = ["pay"]
    data["steps"].append(
        {"id": "rest", "action": "payments.collect", "service": "pay", "at": "ceremony - 30d",
         "inputs": {"amount": "1.00", "payer": "ana"}}
    )  # fmt: skip
    assert compiled(data)["event"].needs == ("deposit",)


def test_groups_run_in_sequence_or_in_parallel_and_nest(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"] += [event(name) for name in ("a", "b", "c", "d")]
    data["groups"] = [
        {"id": "line", "run": "sequence", "members": ["a", "wide", "d"], "needs": ["venue"]},
        {"id": "wide", "run": "parallel", "members": ["b", "c"]},
    ]
    steps = compiled(data)
    assert steps["a"].needs == ("venue",)
    assert steps["b"].needs == steps["c"].needs == ("venue", "a")
    assert steps["d"].needs == ("venue", "b", "c")


def test_a_step_may_need_a_group(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"] += [event("a"), event("b"), event("c", needs=["both"])]
    data["groups"] = [{"id": "both", "run": "parallel", "members": ["a", "b"]}]
    assert compiled(data)["c"].needs == ("a", "b")


def test_a_message_waits_for_every_critical_step_of_its_transaction(data: dict[str, Any], compiled: Compiled) -> None:
    data["services"][1]["critical"] = True
    data["steps"].append(email("hello"))
    assert compiled(data)["hello"].needs == ("venue", "deposit")


def test_an_early_message_waits_for_nothing(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"].append(email("hello", early=True))
    assert compiled(data)["hello"].needs == ()


def test_a_message_with_a_time_of_its_own_does_not_wait(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"].append(email("hello", at="ceremony - 1d"))
    assert compiled(data)["hello"].needs == ()


def test_a_message_after_a_later_step_waits_for_the_critical_steps_after_it_only(
    data: dict[str, Any], compiled: Compiled
) -> None:
    data["services"][2]["critical"] = True
    data["steps"] += [
        event("balance", at="ceremony - 30d"),
        event("consequence", needs=["balance"]),
        email("receipt", needs=["balance"]),
    ]
    assert compiled(data)["receipt"].needs == ("balance", "consequence")


def test_a_critical_step_that_needs_the_message_is_not_waited_for(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"].append(email("ask"))
    data["steps"][VENUE]["needs"] = ["ask"]
    steps = compiled(data)
    assert steps["ask"].needs == ()
    assert steps["venue"].needs == ("ask",)


def test_critical_messages_go_out_in_the_plans_order(data: dict[str, Any], compiled: Compiled) -> None:
    data["services"][3]["critical"] = True
    data["steps"] += [email("one"), email("two")]
    steps = compiled(data)
    assert steps["one"].needs == ("venue", "email")
    assert steps["two"].needs == ("venue", "email", "one")


def test_a_write_that_one_of_its_vendors_cannot_undo_waits_as_a_message_does(manifests: dict[str, Manifest]) -> None:
    assert is_final("storage.put", ("shelf",), manifests)
    assert is_final("sms.send", ("twilio",), manifests)
    assert not is_final("weather.forecast", ("open_meteo",), manifests)
    assert not is_final("booking.request", ("generic", "absent"), manifests)
    assert not is_final("nothing.known", ("generic",), manifests)


def test_a_plan_that_needs_itself_is_refused(
    data: dict[str, Any], load: Callable[[dict[str, Any]], Plan], manifests: dict[str, Manifest]
) -> None:
    data["steps"][VENUE]["needs"] = ["deposit"]
    with pytest.raises(InvalidInput, match="venue -> deposit -> venue"):
        compile_plan(load(data), manifests)


def test_a_plan_with_an_unknown_service_is_refused(
    data: dict[str, Any], load: Callable[[dict[str, Any]], Plan], manifests: dict[str, Manifest]
) -> None:
    data["steps"][EVENT]["service"] = "nobody"
    with pytest.raises(InvalidInput, match="nobody"):
        compile_plan(load(data), manifests)


def test_the_plans_own_order_stands_where_nothing_forbids(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"] = [data["steps"][index] for index in (EVENT, EMAIL, DEPOSIT, VENUE)]
    assert list(compiled(data)) == ["event", "venue", "deposit", "email"]


@st.composite
def random_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Steps that need only earlier ones, shuffled, over critical and other services, some later, some messages."""
    count = draw(st.integers(1, 14))
    steps = []
    for index in range(count):
        needs = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        message = draw(st.booleans())
        make = email if message else event
        step = make(f"s{index}", needs=[f"s{need}" for need in sorted(needs)], early=draw(st.booleans()))
        step["service"] = draw(st.sampled_from(["mail", "mail-c"] if message else ["cal", "cal-c"]))
        if draw(st.integers(0, 4)) == 0:
            step["at"] = "ceremony - 30d"
        elif index and draw(st.integers(0, 5)) == 0:
            step["at"] = f"s{draw(st.integers(0, index - 1))} + 1d"
        steps.append(step)
    contact = {"id": "ana", "name": "A", "email": "a@example.com"}
    place = {"at": "2027-06-19T16:00", "zone": "Europe/Rome"}
    services = [
        {"id": f"{name}{suffix}", "name": "n", "role": "other", "vendor": vendor, "critical": bool(suffix)}
        for name, vendor in (("mail", "resend"), ("cal", "google_calendar"))
        for suffix in ("", "-c")
    ]
    return {
        "version": 1,
        "wedding": {"id": "w", "couple": ["A"], "ceremony": place, "currency": "EUR", "contacts": [contact]},
        "services": services,
        "steps": draw(st.permutations(steps)),
    }


@given(data=random_plans())
def test_random_plans_compile_to_an_order_with_complete_acyclic_needs(
    data: dict[str, Any], manifests: dict[str, Manifest]
) -> None:
    plan, errors = plan_from_json(data)
    assert plan is not None, errors
    assert check_plan(plan, manifests) == []
    steps = compile_plan(plan, manifests)
    place = {step.id: index for index, step in enumerate(steps)}
    assert sorted(place) == sorted(step["id"] for step in data["steps"])
    needs = {step.id: step.needs for step in steps}
    assert all(place[need] < place[step.id] for step in steps for need in step.needs)
    for written in data["steps"]:
        assert set(written["needs"]) <= set(needs[written["id"]])
        if str(written.get("at", "")).startswith("s"):
            assert written["at"].split()[0] in needs[written["id"]]
    above = ancestors(list(place), needs)
    timed = sum(1 << place[step.id] for step in steps if step.at)
    for step in steps:
        if step.capability != "email" or step.early or step.at:
            continue
        for other in steps:
            together = other.critical and not other.at and above[other.id] & timed == above[step.id] & timed
            if together and other.id != step.id:
                ordered = above[step.id] >> place[other.id] & 1 or above[other.id] >> place[step.id] & 1
                assert ordered or (step.critical and other.capability == "email"), (step.id, other.id)


@given(st.dictionaries(st.sampled_from("abcdefg"), st.sets(st.sampled_from("abcdefg"), max_size=3)))
def test_every_graph_is_either_ordered_or_has_a_cycle_to_show(needs: dict[str, set[str]]) -> None:
    names = list("abcdefg")
    ordered, found = topological(names, needs), cycles(names, needs)
    assert (len(ordered) == len(names)) == (found == [])
    for path in found:
        assert path[0] == path[-1]
        assert all(after in needs[before] for before, after in pairwise(path))
        assert len(set(path)) == len(path) - 1
