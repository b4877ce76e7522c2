"""What a wedding goes on with after something of it was undone, and what it leaves alone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.plans import booking, payment, plan
from tests.support.puppet import Answer, Puppet
from tests.support.stages import SkippingStage


async def test_nothing_more_is_begun_of_a_rollback_that_needs_a_person(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(
        plan(
            booking("hall", "replayer", on_failure="rollback"),
            booking("room", "finder", needs=["hall"], on_failure="rollback"),
            payment("final", at="ceremony - 180d", needs=["hall"]),
        )
    )
    puppet.will(wedding.id, "room.reserve", "reject")
    puppet.will(wedding.id, "release", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "needs_attention")
    await skipping.forward(wedding, timedelta(days=25))
    assert (await wedding.steps())["final"].status == "skipped"
    assert await wedding.transactions("scheduled") == []
    assert await wedding.ledger() == []

    again = await wedding.request_change()
    assert (await wedding.until(again, "cancelled")).error["code"] == "already_orchestrated"
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    await wedding.until(await wedding.request_change(), "waiting")
    assert [entry["step_id"] for entry in await wedding.ledger()] == ["final"]


async def test_what_needs_an_undone_step_asks_a_person(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(
        plan(
            booking("venue"),
            booking("hall", "replayer", at="ceremony - 190d", needs=["venue"]),
            payment("final", at="ceremony - 180d", needs=["hall"]),
        )
    )
    await wedding.until(await wedding.request_change(), "completed")
    await skipping.forward(wedding, timedelta(days=12))
    (booked,) = await wedding.transactions("scheduled")
    await wedding.until(await wedding.request_change("undo", target=booked.id), "rolled_back")
    await skipping.forward(wedding, timedelta(days=12))
    final = (await wedding.steps())["final"]
    assert (final.status, final.error["code"]) == ("held", "needs_failed")
    assert [entry["step_id"] for entry in await wedding.ledger()] == ["venue"]


@pytest.mark.parametrize(("answer", "status"), [("ok", "rolled_back"), ("reject", "needs_attention")])
async def test_an_undo_tries_again_what_the_vendor_before_the_fallback_would_not_let_go(
    skipping: SkippingStage, puppet: Puppet, answer: Answer, status: str
) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "slowcoach", fallbacks=["replayer"])))
    puppet.will(wedding.id, "finish", "reject")
    puppet.will(wedding.id, "release", *["reject"] * 3)
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await skipping.forward(wedding, timedelta(hours=26))
    assert (await wedding.steps())["hall"].compensation["status"] == "needs_attention"
    puppet.will(wedding.id, "release", "ok", answer)
    await wedding.until(await wedding.request_change("undo", target=tx), status)
    released = [call.vendor for call in puppet.calls(wedding.id, "release")]
    assert released == ["slowcoach"] * 3 + ["replayer", "slowcoach"]
    compensation = (await wedding.steps())["hall"].compensation
    assert compensation["status"] == ("undone" if answer == "ok" else "needs_attention")
    if answer == "reject":  # What still stands can be tried once more.
        await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
        assert (await wedding.steps())["hall"].compensation["status"] == "undone"
