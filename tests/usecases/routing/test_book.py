"""What a process knows while a newer release writes to the same Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, configure, fail, open_switchboard, pass_one
from wedsync.domain.routing.quotas import QuotaPolicy, WindowLimit
from wedsync.domain.routing.vendor import VersionSpec
from wedsync.kit.clock import utc_now
from wedsync.store import quotas, versions
from wedsync.usecases.routing.switchboard import Switchboard

HOUR = QuotaPolicy(windows=(WindowLimit(window="hour", limit=1000),))
NEWER = '{"added_by_a_newer_release": [1]}'


@pytest.fixture
async def board(fresh_database_urls: Any) -> AsyncIterator[Switchboard]:
    """Whose rows are all there: configuration, circuit, limits, what was taken of them, and a version."""
    async with open_switchboard(fresh_database_urls.app) as opened:
        await configure(opened, circuit={"min_calls": 100}, dependency="optional")
        async with opened.transitions.db.system() as conn:
            await quotas.put_policy(conn, ("stripe", "default"), HOUR, "key:test", utc_now())
            await versions.put_spec(conn, "stripe", VersionSpec(name="next"), "key:test", utc_now())
        await opened.book.load()
        await fail(opened, 1)
        await opened.outcomes.flush()
        yield opened


async def run(board: Switchboard, *statements: str) -> None:
    async with board.transitions.db.system() as conn:
        for statement in statements:
            assert (await conn.execute(text(statement))).rowcount


async def test_keys_that_a_newer_release_has_added_are_passed_over(board: Switchboard) -> None:
    await run(
        board,
        f"UPDATE services SET config = config || '{NEWER}'",
        f"UPDATE services SET config = jsonb_set(config, '{{circuit}}', config -> 'circuit' || '{NEWER}')",
        f'UPDATE circuits SET "window" = jsonb_build_array("window" -> 0 || \'{NEWER}\')',
        f"UPDATE quota_policies SET policy = policy || '{NEWER}'",
        f"UPDATE quotas SET state = state || '{NEWER}'",
        f"UPDATE vendor_versions SET spec = spec || '{NEWER}'",
    )
    await board.book.load()
    assert (board.book.config("stripe").dependency, board.book.policy("stripe").min_calls) == ("optional", 100)
    assert board.book.quota_policy("stripe", "default") == HOUR
    assert board.book.quota("stripe", "default").counters
    assert "next" in board.book.versions("stripe")
    for _ in range(3):
        await pass_one(board, ok=False)
    await board.outcomes.flush()
    assert sum(bucket.failed for bucket in board.book.circuit("stripe", "default").window) == 4


async def test_a_row_that_can_not_be_read_keeps_no_other_from_being_heard_of(board: Switchboard) -> None:
    before = board.book.config("stripe")
    await run(
        board,
        'UPDATE services SET config = config || \'{"strategy": "by_moon"}\'',
        'UPDATE vendor_versions SET spec = spec || \'{"status": "by_moon"}\'',
        'UPDATE quota_policies SET policy = \'{"windows": [{"window": "moon", "limit": 1}]}\'',
        "UPDATE circuits SET state = 'eclipsed'",
    )
    await configure(board, "paypal", dependency="optional")
    assert board.book.config("paypal").dependency == "optional"
    assert board.book.config("stripe") == before
    assert board.book.quota_policy("stripe", "default") == HOUR
    assert "next" in board.book.versions("stripe")
    assert board.book.circuit("stripe", "default").state == "closed"
    ticket = await board.admit(a_call())
    assert ticket.quota_left is not None
