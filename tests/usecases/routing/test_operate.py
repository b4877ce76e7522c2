"""What operators do by hand, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.support.routing import configure, open_switchboard, rows
from wedsync.domain.access.principal import Principal
from wedsync.kit.clock import utc_now
from wedsync.store import access
from wedsync.usecases.routing.operate import Operator
from wedsync.usecases.routing.switchboard import Switchboard


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
