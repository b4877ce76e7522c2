"""A service that a person decides to leave: what is proposed, and when the proposal is withdrawn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import configure, fail, open_switchboard, pass_one, rows
from wedsync.domain.access.principal import Principal
from wedsync.domain.health.status import Health
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.store import access, health
from wedsync.usecases.routing.operate import Operator
from wedsync.usecases.routing.switchboard import Switchboard
from wedsync.usecases.routing.tend_failovers import tend_failovers


@pytest.fixture
async def board(fresh_database_urls: Any) -> AsyncIterator[Switchboard]:
    async with open_switchboard(fresh_database_urls.app) as opened:
        # Nothing slides out of the window within a test.
        circuit = {"window_seconds": 3600.0}
        await configure(opened, circuit=circuit, failover=FailoverPolicy(strategy="manual"))
        yield opened


async def calls(board: Switchboard, times: int, *, ok: bool) -> None:
    if ok:
        for _ in range(times):
            await pass_one(board, ok=True)
    else:
        await fail(board, times)
    await board.outcomes.flush()


async def statuses(board: Switchboard) -> list[str]:
    return [row.status for row in await rows(board, "SELECT status FROM failovers ORDER BY started_at, id")]


async def test_a_proposal_is_withdrawn_when_the_service_is_well_again_and_made_anew_when_it_fails_again(
    board: Switchboard,
) -> None:
    await calls(board, 6, ok=False)
    await calls(board, 1, ok=False)
    await tend_failovers(board.transitions, utc_now())
    assert await statuses(board) == ["proposed"]
    await calls(board, 10, ok=True)
    await tend_failovers(board.transitions, utc_now())
    assert await statuses(board) == ["superseded"]
    await calls(board, 10, ok=False)
    assert await statuses(board) == ["superseded", "proposed"]
    assert board.book.circuit("stripe", "default").state == "closed"


async def test_who_follows_a_proposal_makes_it_the_failover(board: Switchboard) -> None:
    async with board.transitions.db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", utc_now())
    await calls(board, 6, ok=False)
    hand = Operator(board.transitions, Principal(organization_id="studio", key_id="k1"), utc_now())
    await hand.failover("stripe", "default", "trigger")
    await tend_failovers(board.transitions, utc_now())
    assert await statuses(board) == ["active"]


@pytest.mark.parametrize(("status", "expected"), [("healthy", "superseded"), ("down", "proposed")])
async def test_what_probes_have_proposed_they_withdraw(board: Switchboard, status: Any, expected: str) -> None:
    now = utc_now()
    await board.transitions.trip("stripe", "default", now, is_down=True)
    assert await statuses(board) == ["proposed"]
    async with board.transitions.db.system() as conn:
        await health.ensure(conn, ["stripe"], now)
        look = Health(status=status, since=now, checked_at=now)
        await health.write(conn, "stripe", Health(since=now), look, now)
    await tend_failovers(board.transitions, now)
    assert await statuses(board) == [expected]


async def test_failovers_of_a_vendor_that_was_taken_out_stop_nobody(board: Switchboard) -> None:
    await calls(board, 6, ok=False)
    async with board.transitions.db.system() as conn:
        await conn.execute(
            text("""
            INSERT INTO failovers (id, from_service, endpoint, epoch, reason, strategy, status, actor,
              estimated_downtime_ms, rollback_plan, started_at)
            SELECT status, 'gone', 'default', n, '', 'manual', status, 'breaker', 1, '[]', now() - interval '1 hour'
            FROM unnest(ARRAY['proposed', 'active']) WITH ORDINALITY AS s(status, n)
        """)
        )
    await calls(board, 10, ok=True)
    assert await tend_failovers(board.transitions, utc_now()) == 0
    found = await rows(board, "SELECT from_service, status FROM failovers ORDER BY from_service, epoch")
    assert [tuple(row) for row in found] == [("gone", "proposed"), ("gone", "active"), ("stripe", "superseded")]
