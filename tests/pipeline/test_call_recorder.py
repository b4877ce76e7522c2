"""The records of calls reach Postgres whatever happens to their writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, eventually, open_admission_controller, pass_one, rows
from wedsync.domain.errors import VendorUnavailable
from wedsync.pipeline.admission import AdmissionController

CIRCUIT = ("stripe", "default")


@pytest.fixture
def url(fresh_database_urls: Any) -> str:
    return str(fresh_database_urls.app)


@pytest.fixture
async def controller(url: str) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(url) as opened:
        yield opened


async def keep(controller: AdmissionController, operation: str = "create_intent", *, ok: bool = True) -> None:
    said = a_call(operation=operation)
    admission = await controller.admit(said)
    await controller.complete(admission, said, "send", None if ok else VendorUnavailable("down", vendor="stripe"), 0.01)


async def written(controller: AdmissionController) -> int:
    (row,) = await rows(controller, "SELECT count(*) AS calls FROM vendor_calls")
    return int(row.calls)


async def failed(controller: AdmissionController) -> int:
    (row,) = await rows(controller, "SELECT \"window\" FROM circuits WHERE service = 'stripe'")
    return sum(int(bucket["failed"]) for bucket in row.window)


async def waits_for_a_lock(controller: AdmissionController) -> bool:
    """Whether a session waits for another one's lock; the server is this test process's own."""
    return bool(await rows(controller, "SELECT 1 FROM pg_locks WHERE NOT granted"))


async def test_a_write_that_is_cancelled_loses_nothing_and_doubles_nothing(controller: AdmissionController) -> None:
    await pass_one(controller, ok=True)
    await controller.call_recorder.flush()
    async with controller.breakers.db.system() as other:
        await other.execute(text("SELECT 1 FROM circuits FOR UPDATE"))
        await keep(controller, ok=False)
        writing = asyncio.create_task(controller.call_recorder.flush())
        await eventually(lambda: waits_for_a_lock(controller))
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await controller.call_recorder.flush()
    assert (await written(controller), await failed(controller)) == (2, 1)


async def test_the_last_flush_writes_all(url: str, controller: AdmissionController) -> None:
    async with open_admission_controller(url) as other:
        await keep(other)
        await other.call_recorder.flush()
        for _ in range(4500):
            await keep(other)
    assert await written(controller) == 4501


async def test_a_process_that_ends_amid_a_write_finishes_it(url: str, controller: AdmissionController) -> None:
    await pass_one(controller, ok=True)
    await controller.call_recorder.flush()
    async with open_admission_controller(url) as other:
        async with controller.breakers.db.system() as blocker:
            await blocker.execute(text("SELECT 1 FROM circuits FOR UPDATE"))
            await keep(other, ok=False)
            await eventually(lambda: waits_for_a_lock(controller))
            closing = asyncio.create_task(other.call_recorder.close())
            # That it does not end early can only be seen by waiting.
            done, _ = await asyncio.wait({closing}, timeout=0.3)
            assert not done
        await closing
    assert (await written(controller), await failed(controller)) == (2, 1)


async def test_a_record_that_can_not_be_written_takes_no_other_with_it(controller: AdmissionController) -> None:
    for number in range(50):
        await keep(controller, "no\x00text" if number in (7, 8, 40) else "create_intent", ok=number % 20 > 0)
    await controller.call_recorder.flush()
    assert await written(controller) == 47
    assert await failed(controller) == 3
