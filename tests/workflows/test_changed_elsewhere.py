from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.plans import CEREMONY, booking, event, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged


async def url(stage: Stage, wedding: Staged) -> str:
    event_id = (await wedding.steps())["event"].external_id
    return f"{stage.sandbox.vendor_url('google_calendar')}/calendars/local-account/events/{event_id}"


async def patch(stage: Stage, wedding: Staged, body: dict[str, Any]) -> None:
    """Somebody changes the wedding's event in Google's calendar."""
    async with httpx.AsyncClient() as http:
        answer = await http.patch(await url(stage, wedding), json=body, headers={"Authorization": "Bearer theirs"})
        assert answer.status_code == 200, answer.text


async def test_what_somebody_changed_at_the_vendor_is_not_undone_before_a_person_has_looked(stage: Stage) -> None:
    wedding = await stage.wedding(plan(event()))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await patch(stage, wedding, {"location": "The other garden"})
    await wedding.until(await wedding.request_change("undo", target=tx), "needs_attention")
    undo = (await wedding.steps())["event"].compensation
    assert "changed at google_calendar since we wrote it (https://" in undo["detail"]
    assert undo["attempts"] == 0
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert (await wedding.steps())["event"].compensation["status"] == "undone"


@pytest.mark.parametrize(
    "body", [{"attendees": [{"email": "guest@example.com", "responseStatus": "accepted"}]}, {"colorId": "3"}]
)
async def test_a_guest_s_answer_is_no_change_of_what_we_wrote(stage: Stage, body: dict[str, Any]) -> None:
    wedding = await stage.wedding(plan(event()))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await patch(stage, wedding, body)
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")


async def test_what_a_person_deleted_at_the_vendor_needs_no_undo(stage: Stage) -> None:
    wedding = await stage.wedding(plan(event()))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    async with httpx.AsyncClient() as http:
        gone = await http.delete(await url(stage, wedding), headers={"Authorization": "Bearer theirs"})
        assert gone.status_code == 204
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert (await wedding.steps())["event"].compensation["status"] == "nothing_to_undo"


async def test_our_own_shift_is_no_change_by_somebody_else(stage: Stage) -> None:
    wedding = await stage.wedding(plan(event()))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    later = f"{CEREMONY[:10]}T18:00"
    await wedding.until(await wedding.request_change("timeline", ceremony_at=later), "completed")
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")


async def test_a_move_that_failed_and_was_not_put_back_is_made_when_it_is_asked_for_again(
    stage: Stage, puppet: Puppet
) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    later = f"{CEREMONY[:10]}T18:00"
    puppet.will(wedding.id, "move", "reject", "reject")
    await wedding.until(await wedding.request_change("timeline", ceremony_at=later), "needs_attention")
    await wedding.until(await wedding.request_change("timeline", ceremony_at=later), "completed")
    first, _, again = puppet.calls(wedding.id, "move")
    assert (again.inputs, again.idempotency_key != first.idempotency_key) == (first.inputs, True)
    assert (await wedding.steps())["hall"].compensation is None
    # What is certain again is not asked for once more.
    await wedding.until(await wedding.request_change("timeline", ceremony_at=later), "completed")
    assert len(puppet.calls(wedding.id, "move")) == 3


async def test_a_move_whose_outcome_got_lost_is_made_anew_and_not_taken_for_the_old_one(
    stage: Stage, puppet: Puppet
) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer", timeout="2s", compensation={"deadline": "1s"})))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    puppet.will(wedding.id, "move", *["unknown"] * 8)
    for hour in (18, 19):
        at = f"{CEREMONY[:10]}T{hour}:00"
        shift = await wedding.request_change("timeline", ceremony_at=at)
        await wedding.until(shift, "needs_attention" if hour == 18 else "completed")
        puppet.answers[(wedding.id, "move")].clear()
    last = puppet.calls(wedding.id, "move")[-1]
    assert "T19:00" in str(last.inputs)
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")


async def test_an_event_whose_move_could_not_be_put_back_is_undone_all_the_same(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(event(), booking("hall", "replayer", needs=["event"])))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    puppet.will(wedding.id, "move", "reject")
    await stage.sandbox.faults(
        "google_calendar", mode="refuse", operation="update_event", after=1, wedding_id=wedding.id
    )
    later = f"{CEREMONY[:10]}T18:00"
    row = await wedding.until(
        await wedding.request_change("timeline", ceremony_at=later), "needs_attention", "rolled_back"
    )
    await stage.sandbox.clear_faults("google_calendar")
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert row.status == "needs_attention"
    assert (await wedding.steps())["event"].compensation["status"] == "undone"
