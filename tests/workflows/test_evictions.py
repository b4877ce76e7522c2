"""A worker that keeps fewer weddings in memory than it runs lets go of them, and takes them up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.support.plans import booking, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged, stage_settings
from tests.support.stages import FAST, open_puppet_stage
from wedsync.sandbox.embedded import EmbeddedSandbox

_WEDDINGS = 6


@pytest.fixture(scope="module")
async def crowded(
    database_url: str,
    temporal_client: Client,
    stage_sandbox: EmbeddedSandbox,
    puppet: Puppet,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    """A stage whose worker keeps half of its weddings in memory."""
    options = {**FAST, "worker_cached_workflows": 3}
    settings = stage_settings(database_url, stage_sandbox, tmp_path_factory.mktemp("crowded"), **options)
    async with open_puppet_stage(settings, temporal_client, stage_sandbox, puppet) as opened:
        yield opened


async def _live(wedding: Staged) -> tuple[str, str]:
    """Waits amid a call's next try, and at rest, in between being let go of."""
    tx = await wedding.request_change()
    forward = await wedding.until(tx)
    undo_tx = await wedding.request_change("undo", undispatched=True, target=tx)
    await asyncio.gather(wedding.dispatch(undo_tx), return_exceptions=True)
    undo = await wedding.until(undo_tx)
    return forward.status, undo.status


async def test_a_wedding_that_was_let_go_of_goes_on(
    crowded: Stage, puppet: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    steps = plan(booking("a"), booking("b", needs=["a"]))
    weddings = [await crowded.wedding(steps) for _ in range(_WEDDINGS)]
    lives = await asyncio.gather(*(_live(wedding) for wedding in weddings))
    assert lives == [("completed", "rolled_back")] * _WEDDINGS
    # The SDK says so of a workflow that swallows its end: it spins in its thread for ever.
    assert [record.message for record in caplog.records if "eviction" in record.message] == []
