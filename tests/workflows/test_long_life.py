from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from tests.support.plans import booking, payment, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, stage_settings
from tests.support.stages import FAST, open_puppet_stage
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, TransactionRequest
from wedsync.kit.ids import new_id
from wedsync.sandbox.embedded import EmbeddedSandbox
from workers.main import UNSANDBOXED


@pytest.fixture
async def short_lived(
    database_url: str,
    temporal_client: Client,
    stage_sandbox: EmbeddedSandbox,
    puppet: Puppet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stage]:
    """A stage whose weddings go on in a new run after a few events."""
    monkeypatch.setattr(saga, "LONG_HISTORY_EVENTS", 40)
    settings = stage_settings(database_url, stage_sandbox, tmp_path, **FAST)
    async with open_puppet_stage(settings, temporal_client, stage_sandbox, puppet, UNSANDBOXED) as opened:
        yield opened


async def test_a_long_wedding_goes_on_in_a_new_run_with_all_it_knew(short_lived: Stage) -> None:
    wedding = await short_lived.wedding(plan(booking("venue"), payment(needs=["venue"])))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.at_rest()
    runs = {(await wedding.handle.describe()).run_id}
    ledger = await wedding.handle.query("ledger")
    for _ in range(12):
        refused = await wedding.request_change("amendment")
        assert (await wedding.until(refused, "cancelled")).error["code"] == "unknown_kind"
        await wedding.at_rest()
        runs.add((await wedding.handle.describe()).run_id)
    assert len(runs) >= 2
    assert await wedding.handle.query("ledger") == ledger
    history = await wedding.handle.fetch_history()
    assert history.events[0].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    carried = history.events[0].workflow_execution_started_event_attributes.input.payloads
    assert sum(len(payload.data) for payload in carried) < 32 * 1024
    known = TransactionRequest(id=tx, kind="orchestrate", seq=1)
    assert await wedding.handle.execute_update("submit", known, id=new_id(), result_type=str) == tx
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
    assert len([e for e in await wedding.ledger() if e["vendor"] == "generic"]) == 1


async def test_a_wedding_at_rest_goes_on_in_a_new_run_although_nothing_it_hears_matters(short_lived: Stage) -> None:
    wedding = await short_lived.wedding(plan(booking("venue"), payment(needs=["venue"])))
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.at_rest()
    first = (await wedding.handle.describe()).run_id
    receipt = VendorEvent(
        source="twilio", event_id="receipt", type="message.delivered", vendor_type="delivered", step_id="venue"
    )
    async with asyncio.timeout(60):
        # Each a signal that a run counts: once it is a step's that is over, then it is a known one.
        while (await wedding.handle.describe()).run_id == first:
            await wedding.handle.signal(VENDOR_EVENT_SIGNAL, receipt)
    await wedding.say("deposit", "payment.succeeded")
    await wedding.at_rest()
