"""Each fault does what its name says, to the requests it speaks of and to no other."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import OutcomeUnknown, VendorRejected, VendorThrottled, VendorUnavailable
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.sandbox.faults import Fault, FaultStore, Sign

Pay = Callable[..., Awaitable[str]]
KEY = {"Authorization": "Bearer k"}


def _sign(operation: str = "confirm_intent", account: str = "default", wedding_id: str | None = "w-1") -> Sign:
    return Sign(operation=operation, account=account, wedding_id=wedding_id, step_id=None)


def _hits(fault: Fault, count: int, sign: Sign | None = None) -> list[bool]:
    fault_store = FaultStore()
    fault_store.put("stripe", fault)
    return [fault_store.strike("stripe", sign or _sign()).fault is not None for _ in range(count)]


async def _confirm(sandbox: EmbeddedSandbox, intent: str, wedding_id: str = "w-1", **options: Any) -> int:
    http = sandbox.http("stripe", wedding_id=wedding_id, **options)
    answer = await http.request("POST", f"/v1/payment_intents/{intent}/confirm", form=[], headers=KEY)
    return answer.status


async def test_down_has_no_effect_and_answers_503_with_a_page(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    intent = await make_intent()
    await sandbox.faults("stripe", mode="down")
    with pytest.raises(VendorUnavailable) as caught:
        await _confirm(sandbox, intent)
    assert caught.value.status == 503
    assert await sandbox.ledger("stripe") == []
    newest = (await sandbox.requests("stripe"))[-1]
    assert newest["status"] == 503
    assert newest["response_headers"]["content-type"].startswith("text/html")


async def test_slow_takes_effect_after_the_client_gave_up(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    intent = await make_intent()
    await sandbox.faults("stripe", mode="slow", delay_ms=300)
    with pytest.raises(OutcomeUnknown):
        await _confirm(sandbox, intent, timeout_seconds=0.1)
    started = time.monotonic()
    with pytest.raises(VendorRejected):
        await _confirm(sandbox, intent, timeout_seconds=5)
    assert time.monotonic() - started >= 0.3
    assert len(await sandbox.ledger("stripe")) == 1


async def test_throttle_says_for_how_long_and_has_no_effect(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    intent = await make_intent()
    await sandbox.faults("stripe", mode="throttle", retry_after_seconds=9)
    with pytest.raises(VendorThrottled) as caught:
        await _confirm(sandbox, intent)
    assert caught.value.retry_after_seconds == 9
    assert await sandbox.ledger("stripe") == []


async def test_commit_then_drop_takes_effect_and_leaves_no_answer(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    intent = await make_intent()
    await sandbox.faults("stripe", mode="commit_then_drop", times=1)
    with pytest.raises(OutcomeUnknown) as caught:
        await _confirm(sandbox, intent)
    assert caught.value.reason == "no_answer"
    assert len(await sandbox.ledger("stripe")) == 1
    assert (await sandbox.requests("stripe"))[-1]["status"] is None


async def test_refuse_is_the_vendors_own_refusal(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.faults("stripe", mode="refuse")
    intent = await make_intent()
    with pytest.raises(VendorRejected) as caught:
        await _confirm(sandbox, intent)
    assert caught.value.status == 402


async def test_what_the_vendor_would_not_refuse_uses_up_no_refusal(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.faults("stripe", mode="refuse", times=1)
    intent, other = await make_intent(), await make_intent()
    with pytest.raises(VendorRejected):
        await _confirm(sandbox, intent)
    assert await _confirm(sandbox, other) == 200


async def test_a_fault_for_one_wedding_spares_the_others(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.faults("stripe", mode="down", wedding_id="w-2")
    intent = await make_intent(wedding_id="w-1")
    assert await _confirm(sandbox, intent, wedding_id="w-1") == 200
    with pytest.raises(VendorUnavailable):
        await make_intent(wedding_id="w-2")


async def test_a_fault_for_one_operation_spares_the_others(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.faults("stripe", mode="down", operation="confirm_intent")
    intent = await make_intent()
    with pytest.raises(VendorUnavailable):
        await _confirm(sandbox, intent)
    await sandbox.clear_faults("stripe")
    assert await _confirm(sandbox, intent) == 200


async def test_a_delay_goes_together_with_another_fault(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.faults("stripe", mode="slow", delay_ms=100)
    await sandbox.faults("stripe", mode="down")
    started = time.monotonic()
    with pytest.raises(VendorUnavailable):
        await make_intent()
    assert time.monotonic() - started >= 0.1


def test_after_lets_the_first_ones_through_and_times_bounds_the_hits() -> None:
    assert _hits(Fault(mode="down", after=2, times=2), 6) == [False, False, True, True, False, False]


def test_an_operation_may_be_named_by_its_account() -> None:
    sign = _sign("request", "villa-aurora")
    for operation in ("request", "villa-aurora", "villa-aurora.request"):
        assert _hits(Fault(mode="refuse", operation=operation), 1, sign) == [True]
    for operation in ("cancel", "villa-luna", "villa-luna.request", "villa-aurora.cancel"):
        assert _hits(Fault(mode="refuse", operation=operation), 1, sign) == [False]


def test_a_new_fault_of_the_same_name_replaces_the_old_one_and_others_stand_beside_it() -> None:
    fault_store = FaultStore()
    fault_store.put("stripe", Fault(mode="down", times=1))
    fault_store.put("stripe", Fault(mode="down", operation="confirm_intent"))
    fault_store.put("stripe", Fault(mode="down", times=5))
    assert [(one.operation, one.times) for one in fault_store.all()["stripe"]] == [("confirm_intent", None), (None, 5)]
    fault_store.clear("stripe")
    assert fault_store.all() == {}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), mode=st.sampled_from(["flap", "down", "commit_then_drop"]))
def test_a_seeded_fault_repeats_itself(seed: int, mode: Any) -> None:
    fault = Fault(mode=mode, seed=seed, probability=0.5)
    first = _hits(fault, 200)
    assert first == _hits(fault, 200)
    assert 50 < sum(first) < 150


@pytest.mark.parametrize("mode", ["down", "slow", "throttle", "commit_then_drop", "refuse"])
def test_a_seed_alone_spares_nobody(mode: Any) -> None:
    fault_store = FaultStore()
    fault_store.put("stripe", Fault(mode=mode, seed=42, delay_ms=7))
    hits = [fault_store.strike("stripe", _sign()) for _ in range(20)]
    assert all(hit.delay_ms == 7 if mode == "slow" else hit.fault is not None for hit in hits)


def test_flapping_is_down_about_half_of_the_time_and_by_a_draw_without_a_seed_too() -> None:
    assert _hits(Fault(mode="flap"), 200) == _hits(Fault(mode="flap", seed=0, probability=0.5), 200)
    assert sum(_hits(Fault(mode="flap", seed=7), 1000)) in range(430, 570)


def test_the_probability_of_a_seeded_fault_can_be_set() -> None:
    assert sum(_hits(Fault(mode="down", seed=1, probability=0.1), 1000)) in range(60, 140)
    assert not any(_hits(Fault(mode="down", seed=1, probability=0), 50))
    assert all(_hits(Fault(mode="down", seed=1, probability=1), 50))


def test_seeded_hits_are_bounded_too() -> None:
    assert sum(_hits(Fault(mode="flap", seed=3, times=4), 200)) == 4


async def test_a_fault_of_a_region_leaves_the_others_and_the_plain_address_alone(sandbox: EmbeddedSandbox) -> None:
    await sandbox.faults("stripe", mode="down", region="eu-west")
    answers = {}
    for region in ("eu-west", "us-east", ""):
        http = VendorHttp(
            sandbox.pool, vendor="stripe", base_url=sandbox.vendor_url("stripe", region), timeout_seconds=5
        )
        try:
            answers[region] = (await http.request("GET", "/v1/balance", headers=KEY)).status
        except VendorUnavailable as error:
            answers[region] = error.status or 0
    assert answers == {"eu-west": 503, "us-east": 200, "": 200}


def test_faults_of_two_regions_stand_side_by_side() -> None:
    fault_store = FaultStore()
    for region in ("eu-west", "us-east"):
        fault_store.put("stripe", Fault(mode="down", region=region))
    assert [fault.region for fault in fault_store.all()["stripe"]] == ["eu-west", "us-east"]
