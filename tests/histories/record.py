"""Records the histories that `test_replay.py` replays: `make histories`, after a change that is meant to be one.

Sealed under the local codec key; nobody's data but that of the examples is in them.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.plans import CEREMONY, booking, email, event, payment, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged

FOLDER = Path(__file__).parent


async def keep(wedding: Staged, story: str) -> None:
    """Write the wedding's history."""
    await wedding.until_history_rests()
    history = await wedding.handle.fetch_history()
    (FOLDER / f"{story}.json").write_text(history.to_json() + "\n", encoding="utf-8")


async def test_record_typical(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"]), event(needs=["venue"]), email()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
    await keep(wedding, "typical")


async def test_record_fallback(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    await stage.sandbox.faults("stripe", mode="refuse", operation="confirm_intent", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "waiting", "completed")
    await keep(wedding, "fallback")


async def test_record_rollback(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("food", "caterer"), event(), booking("venue", needs=["food", "event"])))
    await stage.sandbox.faults("generic", mode="refuse", operation="villa.request", wedding_id=wedding.id)
    await stage.sandbox.faults(
        "generic", mode="commit_then_drop", operation="caterer.request", times=1, wedding_id=wedding.id
    )
    await wedding.until(await wedding.request_change(), "rolled_back")
    await keep(wedding, "rollback")


async def test_record_hold(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer", on_failure="hold"), event(needs=["hall"])))
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await wedding.at_rest()
    await wedding.decide("hall", "use", "finder")
    await wedding.until(tx, "completed")
    await keep(wedding, "hold")


async def test_record_timeline(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), event(), email("later", at="ceremony - 20d")))
    await wedding.until(await wedding.request_change(), "completed")
    later: Any = datetime.fromisoformat(CEREMONY) + timedelta(days=7)
    await wedding.until(
        await wedding.request_change("timeline", ceremony_at=later.strftime("%Y-%m-%dT%H:%M")), "completed"
    )
    await keep(wedding, "timeline")


async def test_record_closing(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("hall", "half-paper")))
    await wedding.until(await wedding.request_change(), "completed")
    await wedding.until(await wedding.request_change("undo", everything=True, cancel=True), "needs_attention")
    await wedding.at_rest()
    await wedding.say("hall", "hand.undone", source="link", object_id=None)
    async with asyncio.timeout(20):
        await wedding.handle.result()
    await keep(wedding, "closing")
