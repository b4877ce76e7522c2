"""What operators do by hand, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.support.routing import a_call, configure, open_switchboard, rows
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, VendorUnavailable
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.store import access
from wedsync.usecases.routing.operate import Deed, Operator
from wedsync.usecases.routing.switchboard import Switchboard

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0, "ramp_step_seconds": 3600.0}


@pytest.fixture
async def board(fresh_database_urls: Any) -> AsyncIterator[Switchboard]:
    async with open_switchboard(fresh_database_urls.app) as opened:
        async with opened.transitions.db.system() as conn:
            await access.add_organization(conn, "studio", "Studio", utc_now())
        yield opened


def operator(board: Switchboard, organization_id: str = "studio") -> Operator:
    return Operator(board.transitions, Principal(organization_id=organization_id, key_id="k1"), utc_now())


async def test_a_deed_and_its_line_in_the_audit_log_stand_together(board: Switchboard) -> None:
    moved = await operator(board).failover("stripe", "default", "trigger")
    (line,) = await rows(board, "SELECT action, detail FROM audit_log")
    assert (line.action, line.detail["was"], line.detail["now_is"]) == ("failover.trigger", "closed", "open")
    assert (line.detail["epoch"], line.detail["has_moved"]) == (moved.now_is.epoch, True)
    await operator(board).failover("stripe", "default", "trigger")
    told = await rows(board, "SELECT detail FROM audit_log ORDER BY id")
    assert [row.detail["has_moved"] for row in told] == [True, False]


async def test_a_deed_that_can_not_be_audited_is_not_done(board: Switchboard) -> None:
    await configure(board)
    with pytest.raises(IntegrityError):
        await operator(board, "nobody").failover("stripe", "default", "trigger")
    assert await rows(board, "SELECT id FROM failovers") == []
    assert [row.state for row in await rows(board, "SELECT state FROM circuits WHERE service = 'stripe'")] in (
        [],
        ["closed"],
    )
    assert board.book.circuit("stripe", "default").state == "closed"


async def test_a_service_that_was_forced_closed_is_left_when_that_is_asked(board: Switchboard) -> None:
    await configure(board, circuit=STUCK)
    await operator(board).force("stripe", "default", "closed")
    assert (await operator(board).failover("stripe", "default", "trigger")).has_moved
    with pytest.raises(VendorUnavailable) as refused:
        await board.admit(a_call())
    assert refused.value.reason == "circuit_open"


async def test_while_a_service_is_left_in_steps_hold_cuts_it_off_and_restore_stays_with_it(board: Switchboard) -> None:
    await configure(board, circuit=STUCK, failover=FailoverPolicy(strategy="gradual"))

    async def state_after(deed: Deed) -> str:
        await operator(board).failover("stripe", "default", "trigger")
        assert board.book.circuit("stripe", "default").state == "draining"
        return (await operator(board).failover("stripe", "default", deed)).now_is.state

    assert await state_after("restore") == "closed"
    assert await state_after("hold") == "open"
    found = await rows(board, "SELECT status FROM failovers ORDER BY epoch")
    assert [row.status for row in found] == ["restored", "held"]


async def test_the_last_provider_s_share_is_taken_away_only_by_who_means_it(board: Switchboard) -> None:
    await configure(board, circuit=STUCK, failover=FailoverPolicy(strategy="gradual"))
    await operator(board).failover("stripe", "default", "trigger")
    await operator(board).force("paypal", "default", "open")
    with pytest.raises(Conflict) as refused:
        await operator(board).failover("stripe", "default", "hold")
    assert refused.value.reason == "last_provider"
    assert (await operator(board).failover("stripe", "default", "hold", even_if_last=True)).now_is.state == "open"
