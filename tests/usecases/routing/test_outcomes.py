"""The records of calls reach Postgres whatever happens to their writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, eventually, open_switchboard, pass_one, rows
from wedsync.domain.errors import VendorUnavailable
from wedsync.usecases.routing.switchboard import Switchboard

CIRCUIT = ("stripe", "default")


@pytest.fixture
def url(fresh_database_urls: Any) -> str:
    return str(fresh_database_urls.app)


@pytest.fixture
async def board(url: str) -> AsyncIterator[Switchboard]:
    async with open_switchboard(url) as opened:
        yield opened


async def keep(board: Switchboard, operation: str = "create_intent", *, ok: bool = True) -> None:
    said = a_call(operation=operation)
    ticket = await board.admit(said)
    await board.settle(ticket, said, "send", None if ok else VendorUnavailable("down", vendor="stripe"), 0.01)


async def written(board: Switchboard) -> int:
    (row,) = await rows(board, "SELECT count(*) AS calls FROM vendor_calls")
    return int(row.calls)


async def failed(board: Switchboard) -> int:
    (row,) = await rows(board, "SELECT \"window\" FROM circuits WHERE service = 'stripe'")
    return sum(int(bucket["failed"]) for bucket in row.window)


async def waits_for_a_lock(board: Switchboard) -> bool:
    """Whether a session waits for another one's lock; the server is this test process's own."""
    return bool(await rows(board, "SELECT 1 FROM pg_locks WHERE NOT granted"))


async def test_a_write_that_is_cancelled_loses_nothing_and_doubles_nothing(board: Switchboard) -> None:
    await pass_one(board, ok=True)
    await board.outcomes.flush()
    async with board.transitions.db.system() as other:
        await other.execute(text("SELECT 1 FROM circuits FOR UPDATE"))
        await keep(board, ok=False)
        writing = asyncio.create_task(board.outcomes.flush())
        await eventually(lambda: waits_for_a_lock(board))
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await board.outcomes.flush()
    assert (await written(board), await failed(board)) == (2, 1)


async def test_the_last_flush_writes_all(url: str, board: Switchboard) -> None:
    async with open_switchboard(url) as other:
        await keep(other)
        await other.outcomes.flush()
        for _ in range(4500):
            await keep(other)
    assert await written(board) == 4501


async def test_a_process_that_ends_amid_a_write_finishes_it(url: str, board: Switchboard) -> None:
    await pass_one(board, ok=True)
    await board.outcomes.flush()
    async with open_switchboard(url) as other:
        async with board.transitions.db.system() as blocker:
            await blocker.execute(text("SELECT 1 FROM circuits FOR UPDATE"))
            await keep(other, ok=False)
            await eventually(lambda: waits_for_a_lock(board))
            closing = asyncio.create_task(other.outcomes.close())
            # That it does not end early can only be seen by waiting.
            done, _ = await asyncio.wait({closing}, timeout=0.3)
            assert not done
        await closing
    assert (await written(board), await failed(board)) == (2, 1)


async def test_a_record_that_can_not_be_written_takes_no_other_with_it(board: Switchboard) -> None:
    for number in range(50):
        await keep(board, "no\x00text" if number in (7, 8, 40) else "create_intent", ok=number % 20 > 0)
    await board.outcomes.flush()
    assert await written(board) == 47
    assert await failed(board) == 3
