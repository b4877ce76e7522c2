"""How a service comes back without its guard, as calls see it, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.routing import a_call, configure, eventually, fail, married_at, open_switchboard, pass_one, rows
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing import circuit as rules
from wedsync.domain.routing.circuit import Circuit
from wedsync.domain.routing.failover import CEREMONY_AFTER, FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.store import access, circuits
from wedsync.usecases.routing.operate import Operator
from wedsync.usecases.routing.switchboard import Switchboard

SOON = {"open_seconds": 0.05, "open_cap_seconds": 0.05, "probes": 1, "ramp_step_seconds": 60.0}
PACE = timedelta(seconds=60 * rules.UNGUARDED_PACE)


@pytest.fixture
async def board(fresh_database_urls: Any) -> AsyncIterator[Switchboard]:
    async with open_switchboard(fresh_database_urls.app) as opened:
        await configure(opened, circuit=SOON)
        yield opened


def stripe(board: Switchboard) -> Circuit:
    return board.book.circuit("stripe", "default")


async def trip(board: Switchboard) -> None:
    await fail(board, 4)
    await eventually(lambda: stripe(board).state == "open")


async def past_its_cool_down(board: Switchboard) -> None:
    await eventually(lambda: (until := stripe(board).open_until) is not None and utc_now() > until)


async def is_refused(board: Switchboard) -> bool:
    try:
        await board.admit(a_call())
    except VendorUnavailable as error:
        return error.reason == "circuit_open"
    return False


def operator(board: Switchboard) -> Operator:
    return Operator(board.transitions, Principal(organization_id="studio", key_id="k1"), utc_now())


async def test_amid_a_ceremony_calls_do_not_probe_it(board: Switchboard) -> None:
    await married_at(board, utc_now())
    await trip(board)
    await past_its_cool_down(board)
    assert await is_refused(board)
    assert await rows(board, "SELECT * FROM probe_permits WHERE leased_until IS NOT NULL") == []
    # A person who wants it back means now.
    await operator(board).failover("stripe", "default", "restore")
    assert (await pass_one(board, ok=True)).probe is not None
    assert stripe(board).state == "ramping"


async def test_who_need_not_wait_for_quiet_does_not(board: Switchboard) -> None:
    await configure(board, circuit=SOON, failover=FailoverPolicy(waits_for_quiet=False))
    await married_at(board, utc_now())
    await trip(board)
    await past_its_cool_down(board)
    assert (await board.admit(a_call())).probe is not None


async def test_a_ceremony_that_begins_during_the_cool_down_keeps_permits_back(board: Switchboard) -> None:
    now = utc_now()
    vows_at = now + timedelta(minutes=30)
    await married_at(board, vows_at)
    await configure(board, circuit={**SOON, "open_seconds": 1200.0, "open_cap_seconds": 1200.0})
    await trip(board)

    async def slot_at(moment: datetime) -> int | None:
        async with board.transitions.db.system() as conn:
            return await circuits.lease_permit(conn, stripe(board), "some", timedelta(seconds=5), moment)

    mid_vows, over = now + timedelta(minutes=25), vows_at + CEREMONY_AFTER
    assert rules.phase(stripe(board), mid_vows) == "open"
    assert await slot_at(mid_vows) is None
    assert rules.phase(stripe(board), over) == "half_open"
    assert await slot_at(over) == 1


async def test_a_ramp_without_a_guard_stands_still_amid_a_ceremony(board: Switchboard) -> None:
    vows_at = utc_now() + timedelta(minutes=20)
    await married_at(board, vows_at)
    await trip(board)
    await past_its_cool_down(board)
    await pass_one(board, ok=True)
    circuit, policy = stripe(board), board.book.policy("stripe")
    assert (circuit.state, circuit.stage_since is not None) == ("ramping", True)
    begins, ends = vows_at - timedelta(minutes=15), vows_at + CEREMONY_AFTER
    moments = [begins - timedelta(seconds=1), ends - timedelta(seconds=1), ends + PACE]
    assert [rules.share_percent(circuit, moment, policy) for moment in moments] == [50, 50, 100]


async def test_what_waits_for_a_person_is_not_probed_by_calls(board: Switchboard) -> None:
    async with board.transitions.db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", utc_now())
    await configure(board, circuit=SOON, failover=FailoverPolicy(restores_by_itself=False))
    await trip(board)
    await past_its_cool_down(board)
    assert await is_refused(board)
    (record,) = await rows(board, "SELECT status FROM failovers")
    assert record.status == "held"
    await operator(board).failover("stripe", "default", "restore")
    # A probe that fails is a new opening: it waits for a person again.
    assert (await pass_one(board, ok=False)).probe is not None
    assert stripe(board).round == 2
    await past_its_cool_down(board)
    assert await is_refused(board)
    await operator(board).failover("stripe", "default", "restore")
    assert (await pass_one(board, ok=True)).probe is not None
    assert stripe(board).state == "ramping"
    (record,) = await rows(board, "SELECT status FROM failovers")
    assert record.status == "restoring"


@pytest.mark.parametrize(("probes", "more"), [(10, 8), (3, 1), (2, 1)])
async def test_however_many_probes_are_asked_for_meanwhile_it_comes_back(
    board: Switchboard, probes: int, more: int
) -> None:
    await configure(board, circuit={**SOON, "probes": 3})
    await trip(board)
    await past_its_cool_down(board)
    for _ in range(2):
        assert (await pass_one(board, ok=True)).probe is not None
    await configure(board, circuit={**SOON, "probes": probes})
    for n in range(more):
        assert stripe(board).state == "open", n
        assert (await pass_one(board, ok=True)).probe is not None
    assert stripe(board).state == "ramping"
    assert len(await rows(board, "SELECT slot FROM probe_permits WHERE outcome = 'ok'")) == 2 + more


async def test_more_probes_are_asked_for_when_the_round_s_own_have_all_succeeded(board: Switchboard) -> None:
    await configure(board, circuit={**SOON, "probes": 3})
    await trip(board)
    await past_its_cool_down(board)
    tickets = [await board.admit(a_call()) for _ in range(3)]
    assert await is_refused(board)
    await configure(board, circuit={**SOON, "probes": 4})
    for ticket in tickets:
        await board.settle(ticket, a_call(), "send", None, 0.01)
    assert stripe(board).state == "open"

    async def goes_out() -> bool:
        return not await is_refused(board)

    # Who was told that all permits are taken does not ask for a moment.
    await eventually(goes_out)
