from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.routing import circuit_breaker as c
from wedsync.domain.routing import failover as f
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Tally
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.vendor_config import ServiceConfig, available_backups, default_config, is_last
from wedsync.domain.vendors.manifest import ActionSpec, AuthSpec, Manifest, OperationSpec

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
POLICY = CircuitPolicy(open_seconds=10, ramp_step_seconds=15)
OPEN = c.opened(Circuit(service="stripe"), NOW, POLICY, "failure_rate")
RAMPING = OPEN.model_copy(update={"state": "ramping", "stage_since": NOW})


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def step(
    circuit: Circuit, seconds: float, epoch: int = 1, quiet: float | None = None, **failover: Any
) -> f.RecoveryStep:
    quiet_at = None if quiet is None else at(quiet)
    return f.next_step(circuit, epoch, at(seconds), POLICY, FailoverPolicy(**failover), quiet_at)


@pytest.mark.parametrize(
    ("circuit", "seconds", "options", "kind", "until"),
    [
        (OPEN, 0, {}, "wait", 10),
        (OPEN, 10, {}, "probe", None),
        (OPEN, 10, {"epoch": 2}, "done", None),
        (OPEN, 10, {"quiet": 3600}, "postpone", 3600),
        (OPEN, 10, {"quiet": 3600, "waits_for_quiet": False}, "probe", None),
        (OPEN, 10, {"quiet": 5}, "probe", None),
        (c.postponed(OPEN, at(3600)), 10, {"quiet": 3600}, "wait", 3600),
        (OPEN.model_copy(update={"reason": c.RESTORE_ASKED}), 10, {"quiet": 3600}, "probe", None),
        (OPEN.model_copy(update={"held": True}), 10, {}, "wait", 3610),
        (OPEN.model_copy(update={"forced": "open"}), 10, {}, "wait", 3610),
        (RAMPING, 5, {}, "wait", 15),
        (RAMPING, 15, {}, "advance", None),
        (RAMPING, 15, {"quiet": 3600}, "wait", 3600),
        (RAMPING.model_copy(update={"state": "draining"}), 15, {"quiet": 3600}, "advance", None),
        (c.closed(OPEN, NOW), 0, {}, "done", None),
    ],
)
def test_what_a_guard_does_next(
    circuit: Circuit, seconds: float, options: dict[str, Any], kind: str, until: float | None
) -> None:
    found = step(circuit, seconds, **options)
    assert (found.kind, found.until) == (kind, None if until is None else at(until))


def test_the_whole_way_back_takes_the_cool_down_and_the_ramp() -> None:
    circuit, seconds, story = OPEN, 0.0, []
    while (todo := step(circuit, seconds)).kind != "done":
        story.append((todo.kind, seconds))
        if todo.until is not None:
            seconds = (todo.until - NOW).total_seconds()
        elif todo.kind == "probe":
            circuit = c.probed(circuit, "ok", circuit.round, at(seconds), POLICY)
        else:
            circuit = c.advanced(circuit, at(seconds), POLICY)
    assert story == [
        ("wait", 0), ("probe", 10), ("probe", 10), ("probe", 10),
        ("wait", 10), ("advance", 25), ("wait", 25), ("advance", 40),
    ]  # fmt: skip
    assert circuit.state == "closed"


def test_overlapping_ceremonies_are_one_noisy_time() -> None:
    now = NOW
    assert f.quiet_moment([], now) is None
    assert f.quiet_moment([now + timedelta(hours=3)], now) is None
    assert f.quiet_moment([now], now) == now + f.CEREMONY_AFTER
    chain = [now, now + timedelta(minutes=50), now + timedelta(minutes=120)]
    assert f.quiet_moment(reversed(chain), now) == chain[2] + f.CEREMONY_AFTER
    assert f.quiet_moment([now + timedelta(minutes=10)], now) == now + timedelta(minutes=70)


def test_the_next_noisy_time_is_known_before_it_begins() -> None:
    assert f.noisy_time([], NOW) is None
    assert f.noisy_time([NOW - timedelta(hours=1)], NOW) is None
    three, four, nine = (NOW + timedelta(hours=hours) for hours in (3, 4, 9))
    assert f.noisy_time([nine, four, three], NOW) == (three - f.CEREMONY_BEFORE, four + f.CEREMONY_AFTER)


NOISY = (at(300), at(4800))


@pytest.mark.parametrize(
    ("was", "now_is", "policy", "noisy", "held"),
    [
        (Circuit(service="stripe"), OPEN, {}, NOISY, False),
        (Circuit(service="stripe"), OPEN, {"waits_for_quiet": False}, None, False),
        (Circuit(service="stripe"), OPEN, {"restores_by_itself": False}, NOISY, True),
        # Only as it opens: a person who lets it go means it.
        (OPEN, OPEN, {"restores_by_itself": False}, NOISY, False),
        (Circuit(service="stripe"), c.forced(Circuit(service="stripe"), "open", NOW, POLICY),
         {"restores_by_itself": False}, NOISY, False),
        (OPEN, RAMPING, {}, NOISY, False),
        (OPEN, c.restorable(OPEN, NOW), {}, None, False),
        (RAMPING, c.closed(RAMPING, NOW), {}, None, False),
    ],
)  # fmt: skip
def test_it_comes_back_as_its_operator_wants(
    was: Circuit, now_is: Circuit, policy: dict[str, Any], noisy: Any, held: bool
) -> None:
    found = f.as_configured(was, now_is, FailoverPolicy(**policy), NOISY)
    assert (found.noisy_from, found.noisy_until) == (noisy or (None, None))
    assert found.held is held
    assert f.as_configured(was, found, FailoverPolicy(), None).noisy_until is None


@pytest.mark.parametrize(
    ("tally", "is_up", "expected"),
    [
        (Tally(failed=12, in_row=12), True, False),
        (Tally(ok=10, failed=4), True, True),
        (Tally(ok=10, failed=4), None, True),
        # Probes say that it is down.
        (Tally(ok=10), False, False),
        # Too few to judge by: only good ones count.
        (Tally(ok=2), None, True),
        (Tally(ok=2, failed=1), None, False),
        # No calls: as the probes say.
        (Tally(), True, True),
        (Tally(), None, False),
    ],
)
def test_it_is_well_again_when_its_calls_or_without_any_its_probes_say_so(
    tally: Tally, is_up: bool | None, expected: bool
) -> None:
    circuit = c.counted(Circuit(service="stripe"), tally, NOW, POLICY)
    assert f.is_well_again(circuit, is_up, NOW, POLICY) is expected
    # What slid out of the window says nothing any more.
    assert f.is_well_again(circuit, True, at(POLICY.window_seconds + 4), POLICY)


@given(st.lists(st.integers(-300, 300), max_size=12))
def test_at_the_quiet_moment_it_is_quiet(minutes: list[int]) -> None:
    ceremonies = [NOW + timedelta(minutes=m) for m in minutes]
    quiet = f.quiet_moment(ceremonies, NOW) or NOW
    assert all(not (one - f.CEREMONY_BEFORE <= quiet < one + f.CEREMONY_AFTER) for one in ceremonies)


def test_backups_stand_in_order_while_an_endpoint_of_theirs_does() -> None:
    config = ServiceConfig(service="stripe", backups=("paypal", "adyen"))
    paypal = ServiceConfig(service="paypal", endpoints=(Endpoint(), Endpoint(name="eu")))
    known = {"paypal": paypal, "adyen": ServiceConfig(service="adyen")}
    assert available_backups(config, set(), known) == ("paypal", "adyen")
    assert available_backups(config, {("paypal", "default")}, known) == ("paypal", "adyen")
    assert available_backups(config, {("paypal", "default"), ("paypal", "eu")}, known) == ("adyen",)
    assert available_backups(config, {("adyen", "default")}, {"adyen": known["adyen"]}) == ()
    assert available_backups(ServiceConfig(service="villa"), set(), known) == ()


def test_the_downtime_is_at_least_cool_down_and_ramp() -> None:
    assert f.estimated_downtime_ms(OPEN, NOW, POLICY) == 40_000
    assert f.estimated_downtime_ms(OPEN, NOW, POLICY, [50_000, 90_000, 10_000_000]) == 90_000
    assert f.estimated_downtime_ms(OPEN, NOW, POLICY, [5]) == 40_000
    assert "paypal" in " ".join(f.rollback_plan("stripe", "paypal", POLICY))


def vendor(name: str, *capabilities: str) -> Manifest:
    action = ActionSpec(name="payments.collect", operations=(OperationSpec(name="take"),), undo="exact")
    return Manifest(
        name=name,
        title=name,
        capabilities=capabilities,
        documentation_url="https://x",
        base_url="https://x",
        auth=AuthSpec(kind="none"),
        actions=(action,),
    )


def test_backups_are_vendors_that_stand_in_and_a_business_has_none() -> None:
    manifests = {
        name: vendor(name, *capabilities)
        for name, capabilities in {
            "stripe": ("payments",), "paypal": ("payments",), "villa": ("booking",), "hall": ("booking",),
        }.items()
    }  # fmt: skip
    assert default_config(manifests["stripe"], manifests).backups == ("paypal",)
    assert default_config(manifests["villa"], manifests).backups == ()
    assert default_config(manifests["stripe"], manifests).dependency == "critical"
    assert default_config(manifests["stripe"], manifests).health.interval_seconds == 10
    assert default_config(vendor("sky", "weather"), manifests).dependency == "optional"
    assert default_config(vendor("mail", "email", "payments"), manifests).dependency == "critical"


@pytest.mark.parametrize(
    "bad",
    [
        {"backups": ("stripe",)},
        {"backups": ("paypal", "paypal")},
        {"endpoints": (Endpoint(), Endpoint())},
        {"endpoints": ()},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"endpoint|backups"):
        ServiceConfig(service="stripe", **bad)


def test_the_last_provider_has_neither_endpoint_nor_backup_left() -> None:
    two = ServiceConfig(service="stripe", backups=("paypal",), endpoints=(Endpoint(), Endpoint(name="eu")))
    one = ServiceConfig(service="paypal", backups=("stripe",))
    known = {"stripe": two, "paypal": one}
    assert not is_last(two, "default", set(), known)
    assert not is_last(two, "default", {("paypal", "default")}, known)
    assert not is_last(two, "default", {("stripe", "eu")}, known)
    assert is_last(two, "default", {("stripe", "eu"), ("paypal", "default")}, known)
    assert not is_last(one, "default", {("stripe", "eu")}, known)
    assert is_last(one, "default", {("stripe", "eu"), ("stripe", "default")}, known)
    assert is_last(ServiceConfig(service="villa"), "default", set(), known)
    assert is_last(ServiceConfig(service="villa", backups=("nobody",)), "default", set(), known)
