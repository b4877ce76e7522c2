"""Which of a service's endpoints takes a call, on real Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, configure, eventually, open_switchboard, pass_one, rows
from wedsync.domain.errors import VendorRejected, VendorUnavailable
from wedsync.domain.routing import circuit as rules
from wedsync.domain.routing.quotas import QuotaPolicy, WindowLimit
from wedsync.domain.routing.strategy import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.store import quotas
from wedsync.usecases.routing.route import Situation
from wedsync.usecases.routing.switchboard import Switchboard, Ticket

TWO = (Endpoint(name="eu", base_url="https://eu.example.com"), Endpoint(name="us", base_url="https://us.example.com"))
#: Opens for good, until a test says otherwise; stays on the first stage of its ramp.
STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0, "ramp_step_seconds": 3600.0, "probes": 2}
WEDDINGS = [f"w{number}" for number in range(40)]


@pytest.fixture
async def board(fresh_database_urls: Any) -> AsyncIterator[Switchboard]:
    """A service with two endpoints, and without a backup."""
    async with open_switchboard(fresh_database_urls.app) as opened:
        await configure(opened, circuit=STUCK, endpoints=TWO, backups=())
        yield opened


async def move(board: Switchboard, change: Any, endpoint: str = "eu") -> None:
    await board.transitions.apply("stripe", endpoint, lambda circuit, _: change(circuit), utc_now())


async def cut_off(board: Switchboard, endpoint: str = "eu", *, half_open: bool = False) -> None:
    policy, at = board.book.policy("stripe"), utc_now() - timedelta(hours=2 if half_open else 0)
    await move(board, lambda circuit: rules.opened(circuit, at, policy, "test"), endpoint)


async def ramp(board: Switchboard, endpoint: str = "eu") -> None:
    await cut_off(board, endpoint, half_open=True)
    policy = board.book.policy("stripe")

    def good(circuit: rules.Circuit) -> rules.Circuit:
        for _ in range(policy.probes):
            circuit = rules.probed(circuit, "ok", circuit.round, utc_now(), policy)
        return circuit

    await move(board, good, endpoint)
    assert board.book.circuit("stripe", endpoint).state == "ramping"


def taken(tickets: list[Ticket]) -> Counter[tuple[str, bool]]:
    """By endpoint, and whether as a probe."""
    return Counter((ticket.endpoint.name, ticket.probe is not None) for ticket in tickets)


async def test_beyond_a_half_open_endpoints_permits_calls_go_to_the_other(board: Switchboard) -> None:
    await cut_off(board, half_open=True)
    tickets = [await board.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    assert taken(tickets) == {("eu", True): 2, ("us", False): 38}


async def test_all_at_once_too(board: Switchboard) -> None:
    await cut_off(board, half_open=True)
    tickets = await asyncio.gather(*(board.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS))
    assert taken(tickets) == {("eu", True): 2, ("us", False): 38}


@pytest.mark.parametrize("strategy", ["failover", "round_robin", "weighted", "least_loaded", "geographic"])
async def test_a_ramping_endpoint_gets_its_share_and_the_other_the_rest(board: Switchboard, strategy: Any) -> None:
    await configure(board, circuit=STUCK, endpoints=TWO, backups=(), strategy=strategy)
    await ramp(board)
    tickets = [await board.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    found = taken(tickets)
    assert sum(found.values()) == found["eu", False] + found["us", False] == 40
    assert found["eu", False] <= 12


async def test_with_both_ramping_nobody_is_refused_who_has_no_other_vendor(board: Switchboard) -> None:
    await ramp(board)
    await ramp(board, "us")
    tickets = [await board.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    assert len(tickets) == 40
    elsewhere = Situation(can_go_elsewhere=True)
    told = await asyncio.gather(
        *(board.admit(a_call(wedding_id=wedding), elsewhere) for wedding in WEDDINGS), return_exceptions=True
    )
    refused = [one for one in told if isinstance(one, VendorUnavailable)]
    assert len(refused) >= 20
    assert {one.reason for one in refused} == {"circuit_open"}


async def test_a_wedding_day_call_is_no_probe_while_another_endpoint_stands(board: Switchboard) -> None:
    await cut_off(board, half_open=True)
    day = Situation(is_wedding_day=True)
    assert taken([await board.admit(a_call(), day) for _ in range(3)]) == {("us", False): 3}
    await cut_off(board, "us")
    assert (await board.admit(a_call(), day)).endpoint.name in ("eu", "us")


async def test_with_no_permit_and_no_other_endpoint_it_is_refused(board: Switchboard) -> None:
    # A backup stands, so neither endpoint is the last.
    await configure(board, circuit=STUCK, endpoints=TWO, backups=("paypal",))
    await cut_off(board, "us")
    await cut_off(board, half_open=True)
    tickets = [await board.admit(a_call()) for _ in range(2)]
    assert taken(tickets) == {("eu", True): 2}
    with pytest.raises(VendorUnavailable) as caught:
        await board.admit(a_call())
    assert caught.value.reason == "circuit_open"


async def test_a_step_stays_at_its_endpoint_even_when_that_is_cut_off(board: Switchboard) -> None:
    await cut_off(board)
    with pytest.raises(VendorUnavailable):
        await board.admit(a_call(facts={"payment_id": "p", "endpoint": "eu"}))
    assert (await board.admit(a_call(facts={"payment_id": "p", "endpoint": "us"}))).endpoint.name == "us"


async def test_what_was_made_before_there_was_a_choice_lives_at_the_first(board: Switchboard) -> None:
    assert (await board.admit(a_call(facts={"payment_id": "p"}))).endpoint.name == "eu"
    own = (*TWO, Endpoint(name="main"))
    await configure(board, circuit=STUCK, endpoints=own, backups=())
    assert (await board.admit(a_call(facts={"payment_id": "p"}))).endpoint.name == "main"


async def test_what_lives_at_an_endpoint_that_was_removed_is_refused_by_name(board: Switchboard) -> None:
    with pytest.raises(VendorRejected, match="'moon'") as caught:
        await board.admit(a_call(facts={"payment_id": "p", "endpoint": "moon"}))
    assert caught.value.reason == "endpoint_removed"
    await board.outcomes.flush()
    (record,) = await rows(board, "SELECT endpoint, outcome, reason FROM vendor_calls")
    assert tuple(record) == ("moon", "vendor_rejected", "endpoint_removed")
    other = a_call(facts={"payment_id": "p", "endpoint": "moon"}, account="studios-own")
    assert (await board.admit(other)).endpoint.name == "eu"


async def test_a_call_that_is_cancelled_while_it_waits_for_its_quota_gives_its_permit_back(board: Switchboard) -> None:
    limited = QuotaPolicy(windows=(WindowLimit(window="day", limit=3),))
    async with board.transitions.db.system() as conn:
        await quotas.put_policy(conn, ("stripe", "default"), limited, "key:test", utc_now())
    await board.book.load()
    await pass_one(board, ok=True)
    await cut_off(board, half_open=True)
    async with board.transitions.db.system() as conn:
        await conn.execute(text("SELECT * FROM quotas FOR UPDATE"))
        waiting = asyncio.create_task(board.admit(a_call()))
        await eventually(lambda: _leased(board))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not await _leased(board)


async def _leased(board: Switchboard) -> bool:
    return bool(await rows(board, "SELECT * FROM probe_permits WHERE leased_until IS NOT NULL"))


async def test_probes_by_traffic_bring_an_endpoint_back_beside_its_sibling(board: Switchboard) -> None:
    await cut_off(board, half_open=True)
    for _ in range(2):
        assert (await pass_one(board, ok=True)).probe is not None
    await eventually(lambda: board.book.circuit("stripe", "eu").state == "ramping")
