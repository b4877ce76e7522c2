from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from wedsync.kit.crypto import sign_link
from wedsync.store.inbox.tables import inbox
from wedsync.store.weddings.tables import steps
from wedsync.usecases.weddings.links import link_maker


async def link_to(api: Any, *, step: str = "venue", life: timedelta = timedelta(days=1), **changes: Any) -> str:
    wedding = await api.wedding()
    payload = {
        "organization_id": api.access.organization_id,
        "wedding_id": wedding["id"],
        "step_id": step,
        "transaction_id": "t1",
        "action": "booking.request",
        "vendor": "generic",
        **changes,
    }
    url = link_maker(api.settings)(payload, datetime.now(UTC) + life)
    return url.removeprefix(api.settings.api_url)


async def set_step(api: Any, path: str, **values: Any) -> None:
    question = (await api.http.get(path)).json()
    async with api.db.tenant(api.access.organization_id) as conn:
        newest = select(steps.c.wedding_id).order_by(steps.c.wedding_id.desc()).limit(1).scalar_subquery()
        where = (steps.c.wedding_id == newest, steps.c.step_id == question["step_id"])
        await conn.execute(update(steps).where(*where).values(**values))


async def events(api: Any) -> list[Any]:
    async with api.db.system() as conn:
        return list((await conn.execute(select(inbox).where(inbox.c.source == "link").order_by(inbox.c.id))).all())


async def test_a_link_tells_what_is_asked_without_a_key(api: Any) -> None:
    path = await link_to(api)
    api.http.headers.pop("authorization")
    assert (await api.http.get(path)).json() == {
        "step_id": "venue",
        "action": "booking.request",
        "vendor": "generic",
        "ceremony_local": "2027-06-19T16:00",
        "zone": "Europe/Rome",
        "answers": [],
    }
    await set_step(api, path, status="waiting")
    assert (await api.http.get(path)).json()["answers"] == ["confirmed", "declined"]
    await set_step(api, path, status="failed", compensation={"status": "needs_attention"})
    assert (await api.http.get(path)).json()["answers"] == ["undone"]


@pytest.mark.parametrize("answer", ["confirmed", "declined", "undone"])
async def test_an_answer_becomes_one_event_of_the_wedding(new_api: Any, fresh_database_urls: Any, answer: str) -> None:
    api = await new_api(fresh_database_urls)
    path = await link_to(api)
    if answer == "undone":
        await set_step(api, path, compensation={"status": "needs_attention"})
    else:
        await set_step(api, path, status="waiting")
    first = await api.http.post(path, json={"answer": answer})
    assert (first.status_code, first.json()) == (200, {"received": True, "duplicate": False})
    await set_step(api, path, status="succeeded", compensation=None)
    assert (await api.http.post(path, json={"answer": answer})).json()["duplicate"] is True
    (row,) = await events(api)
    assert (row.state, row.event["type"], row.event["step_id"]) == ("received", f"hand.{answer}", "venue")
    assert row.due_at is not None
    assert answer.encode() not in bytes(row.body)


@pytest.mark.parametrize("answer", ["confirmed", "declined", "undone"])
async def test_what_is_not_asked_is_not_recorded(new_api: Any, fresh_database_urls: Any, answer: str) -> None:
    api = await new_api(fresh_database_urls)
    path = await link_to(api)
    response = await api.http.post(path, json={"answer": answer})
    assert (response.status_code, response.json()["code"]) == (409, "nothing_asked")
    assert await events(api) == []


async def test_a_link_that_is_old_or_forged_opens_nothing(api: Any) -> None:
    expired = await link_to(api, life=timedelta(seconds=-1))
    good = await link_to(api)
    forged = sign_link({"organization_id": "x"}, "another secret", datetime.now(UTC) + timedelta(days=1))
    foreign = await link_to(api, organization_id="somebody")
    strange = await link_to(api, more="keys")
    gone = await link_to(api, step="no-such-step")
    for path, status, code in [
        (expired, 410, "link_expired"),
        (good[:-2], 404, "link_invalid"),
        (f"/api/v1/vendor-links/{forged}", 404, "link_invalid"),
        ("/api/v1/vendor-links/%00", 404, "link_invalid"),
        ("/api/v1/vendor-links/é.é", 404, "link_invalid"),
        (strange, 404, "link_invalid"),
        (foreign, 404, "not_found"),
        (gone, 404, "not_found"),
    ]:
        for response in (await api.http.get(path), await api.http.post(path, json={"answer": "confirmed"})):
            assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_link_past_its_date_is_good_while_its_wedding_asks_by_it(api: Any) -> None:
    path = await link_to(api, life=timedelta(days=-1), action="booking.request")
    async with api.db.tenant(api.access.organization_id) as conn:
        newest = select(steps.c.wedding_id).order_by(steps.c.wedding_id.desc()).limit(1).scalar_subquery()
        where = (steps.c.wedding_id == newest, steps.c.step_id == "venue")
        await conn.execute(update(steps).where(*where).values(compensation={"status": "needs_attention"}))
    assert (await api.http.get(path)).json()["answers"] == ["undone"]
    assert (await api.http.post(path, json={"answer": "undone"})).status_code == 200


@pytest.mark.parametrize("body", [{}, {"answer": "maybe"}, {"answer": "confirmed", "more": 1}, []])
async def test_an_answer_of_another_shape_is_refused(api: Any, body: Any) -> None:
    response = await api.http.post(await link_to(api), json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
