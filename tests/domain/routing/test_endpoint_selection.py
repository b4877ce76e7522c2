from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.routing.endpoint_selection import Endpoint, Load, Strategy, choose, home
from wedsync.domain.routing.vendor_config import HealthCheck

ROME, TOKYO = (41.9, 12.5), (35.7, 139.7)
STRATEGIES: list[Strategy] = ["round_robin", "weighted", "least_loaded", "geographic", "failover"]
A, B, C = Endpoint(name="a", weight=3), Endpoint(name="b", weight=1), Endpoint(name="c", weight=0)
IDLE = (Load(), Load(), Load())


def names(strategy: Strategy, times: int, loads: tuple[Load, ...] = IDLE, **options: Any) -> list[str]:
    return [choose(strategy, (A, B, C), loads, turn=turn, **options).name for turn in range(times)]


def test_round_robin_takes_turns_among_the_usable() -> None:
    assert names("round_robin", 6) == ["a", "b", "c", "a", "b", "c"]
    assert names("round_robin", 4, (Load(), Load(is_cut_off=True), Load())) == ["a", "c", "a", "c"]


def test_weights_are_shares_and_a_draw_repeats() -> None:
    found = Counter(names("weighted", 4000, key="w"))
    assert 0.7 < found["a"] / 4000 < 0.8
    assert found["c"] == 0
    assert names("weighted", 50, key="w") == names("weighted", 50, key="w")


def test_without_any_weight_the_first_is_taken() -> None:
    assert choose("weighted", (C,), (Load(),)).name == "c"


def test_least_loaded_looks_at_calls_in_flight_and_latency() -> None:
    assert names("least_loaded", 1, (Load(in_flight=9, latency_ms=10), Load(latency_ms=50), Load(latency_ms=90))) == [
        "b"
    ]
    assert names("least_loaded", 1, (Load(latency_ms=10), Load(latency_ms=50), Load(latency_ms=90))) == ["a"]


def test_the_region_nearest_to_the_venue_is_taken() -> None:
    endpoints = tuple(Endpoint(name=region, region=region) for region in ("us-east", "ap-northeast", "eu-south"))
    assert choose("geographic", endpoints, IDLE, venue=ROME).name == "eu-south"
    assert choose("geographic", endpoints, IDLE, venue=TOKYO).name == "ap-northeast"
    assert choose("geographic", endpoints, IDLE).name == "us-east"
    cut = (Load(), Load(), Load(is_cut_off=True))
    assert choose("geographic", endpoints, cut, venue=ROME).name == "us-east"


def test_failover_order_and_capacity() -> None:
    assert names("failover", 2) == ["a", "a"]
    full = (A.model_copy(update={"capacity": 2}), B)
    assert choose("failover", full, (Load(in_flight=1), Load())).name == "a"
    assert choose("failover", full, (Load(in_flight=2), Load())).name == "b"


def test_full_comes_before_cut_off() -> None:
    full = (A, B.model_copy(update={"capacity": 1}))
    assert choose("failover", full, (Load(is_cut_off=True), Load(in_flight=1))).name == "b"
    own = (Endpoint(name="own", dedicated=True), *full)
    cut = (Load(is_cut_off=True), Load(is_cut_off=True), Load(in_flight=1))
    assert choose("failover", own, cut, is_wedding_day=True).name == "b"


EU, US, OWN = Endpoint(name="eu", base_url="https://eu"), Endpoint(name="us", base_url="https://us"), Endpoint()


@pytest.mark.parametrize(
    ("endpoints", "lives_at", "found"),
    [
        ((EU, US), "us", US),
        ((EU, US), "gone", None),
        # Made before there was a choice.
        ((EU, US), None, EU),
        ((EU, OWN), None, OWN),
        ((EU, Endpoint(name="main")), None, Endpoint(name="main")),
        # The account's own address is there whatever is configured.
        ((EU, US), "default", OWN),
        ((EU, Endpoint(name="main")), "default", Endpoint(name="main")),
        ((EU, EU.model_copy(update={"name": "default"})), "default", EU.model_copy(update={"name": "default"})),
    ],
)
def test_an_object_stays_where_it_was_made(
    endpoints: tuple[Endpoint, ...], lives_at: str | None, found: Endpoint | None
) -> None:
    assert home(endpoints, lives_at) == found


def test_dedicated_endpoints_are_for_wedding_days() -> None:
    endpoints = (Endpoint(name="own", dedicated=True), Endpoint(name="all"))
    loads = (Load(), Load())
    assert choose("failover", endpoints, loads).name == "all"
    assert choose("failover", endpoints, loads, is_wedding_day=True).name == "own"
    assert choose("failover", endpoints, (Load(is_cut_off=True), Load()), is_wedding_day=True).name == "all"
    assert choose("failover", endpoints[:1], loads[:1]).name == "own"


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=8),
    st.integers(0, 100),
    st.booleans(),
)
def test_a_usable_endpoint_is_taken_whenever_there_is_one(
    strategy: Strategy, given_: list[tuple[bool, bool, int, int]], turn: int, is_wedding_day: bool
) -> None:
    endpoints = [Endpoint(name=f"e{i}", dedicated=own, capacity=cap) for i, (_, own, _, cap) in enumerate(given_)]
    loads = [Load(is_cut_off=cut, in_flight=busy) for cut, _, busy, _ in given_]

    def usable(endpoint: Endpoint, load: Load) -> bool:
        fits = is_wedding_day or not endpoint.dedicated
        return fits and not load.is_cut_off and (not endpoint.capacity or load.in_flight < endpoint.capacity)

    fit = {e.name for e, load in zip(endpoints, loads, strict=True) if usable(e, load)}
    chosen = choose(strategy, endpoints, loads, turn=turn, is_wedding_day=is_wedding_day)
    assert chosen in endpoints
    assert not fit or chosen.name in fit


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://[zz]/",
        "http://:80",
        "https://a:99999",
        "https://a:x",
        "https://a:0",
        "https:///v1",
        "https://a..b",
    ],
)
def test_an_address_that_no_request_can_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="such as https://"):
        Endpoint(base_url=url)
    with pytest.raises(ValueError, match="such as https://"):
        HealthCheck(url=url)


@pytest.mark.parametrize(
    "url", ["", "http://[::1]:8080", "https://API.example.com/v1", "http://stand_in:80/x", "http://127.0.0.1:9"]
)
def test_an_address_that_requests_can_be_sent_to_is_taken(url: str) -> None:
    assert Endpoint(base_url=url).base_url == url
