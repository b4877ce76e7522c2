from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.plans import booking, email, payment, plan
from tests.support.routing import a_call, eventually, open_admission_controller, rows
from wedsync.domain.errors import ThrottledUntil, VendorThrottled
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import hash_api_key, new_api_key
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.store.access import queries as access

DAILY = {"windows": [{"window": "day", "limit": 100}], "upgrade": "https://stripe.com/docs/rate-limits"}


@pytest.fixture
async def api(new_api: Any, fresh_database_urls: Any) -> Any:
    """On a database of its own: a quota holds for everybody who calls the vendor."""
    return await new_api(fresh_database_urls)


@pytest.fixture
async def controller(api: Any) -> AsyncIterator[AdmissionController]:
    """Another process."""
    async with open_admission_controller(api.settings.database_url) as opened:
        yield opened


async def put(api: Any, path: str, body: Any) -> Any:
    return await api.http.put(f"/api/v1{path}", json=body)


async def send(controller: AdmissionController, **situation: Any) -> None:
    admission = await controller.admit(a_call(), Situation(**situation))
    await controller.complete(admission, a_call(), "send", None, 0.01)


async def a_wedding(api: Any, id_: str, **more: Any) -> str:
    body = plan(booking("venue"), payment(needs=["venue"]), email(at="ceremony - 30d"), **more).model_dump(
        mode="json", exclude_none=True
    )
    body["wedding"]["id"] = id_
    response = await api.post("/weddings", body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def test_limits_are_live_in_every_process_and_shown_with_what_is_left(
    api: Any, controller: AdmissionController
) -> None:
    shown = await put(api, "/quotas/stripe", DAILY)
    assert shown.status_code == 200, shown.text
    await eventually(lambda: len(controller.routing_table.quota_policy("stripe", "default").windows) == 1, 2)
    await send(controller)
    found = (await api.get("/quotas/stripe")).json()
    (window,) = found["windows"]
    assert (window["limit"], window["used"], window["remaining"], window["reserved"]) == (100, 1, 99, 0)
    assert found["upgrade"] == DAILY["upgrade"]
    listed = {one["service"]: one for one in (await api.get("/quotas")).json()["data"]}
    assert listed["stripe"]["windows"] == found["windows"]
    # What no operator has set is as the vendor documents it.
    assert [one["window"] for one in listed["open_meteo"]["windows"]] == ["minute", "hour", "day"]
    assert listed["open_meteo"]["upgrade"] == "https://open-meteo.com/en/pricing"
    audited = await rows(controller, "SELECT subject FROM audit_log WHERE action = 'quota.limited'")
    assert audited[-1].subject == "quota/stripe"


@pytest.mark.parametrize(
    "body",
    [
        {"windows": [{"window": "week", "limit": 1}]},
        {"windows": [{"window": "hour", "limit": 0}]},
        {"windows": [{"window": "minute", "limit": 60, "burst": 31}]},
        {**DAILY, "upgrade": "a\u0000"},
        {"windows": [{"window": "hour", "limit": 1}, {"window": "hour", "limit": 2}]},
        {},
    ],
)
async def test_limits_that_can_not_be_are_refused(api: Any, body: Any) -> None:
    assert (await put(api, "/quotas/stripe", body)).status_code == 422


async def test_nobody_knows_a_quota_of_nobody(api: Any) -> None:
    assert (await api.get("/quotas/nobody")).status_code == 404
    assert (await put(api, "/quotas/nobody", DAILY)).status_code == 404


async def test_a_throttle_is_felt_in_other_processes_within_a_second_and_not_on_a_wedding_day(
    api: Any, controller: AdmissionController
) -> None:
    await put(api, "/quotas/stripe", DAILY)
    await controller.routing_table.load()
    await send(controller)
    response = await put(api, "/quotas/stripe/throttle", {"percent": 0, "reason": "incident"})
    assert response.json()["throttle"]["percent"] == 0

    async def is_shut() -> bool:
        try:
            await send(controller)
        except ThrottledUntil:
            return True
        return False

    await eventually(is_shut, 1)
    await send(controller, is_wedding_day=True)
    gone = await api.http.delete("/api/v1/quotas/stripe/throttle")
    assert gone.json()["throttle"] is None
    await eventually(lambda: controller.routing_table.quota("stripe", "default").throttle is None, 2)
    await send(controller)


@pytest.mark.parametrize(
    "body", [{"percent": 1, "reason": "a\u0000"}, {"percent": 1, "until": "9999-12-31T23:59:59Z"}, {"percent": 100}]
)
async def test_a_throttle_that_can_not_be_is_refused(api: Any, body: Any) -> None:
    await put(api, "/quotas/stripe", DAILY)
    assert (await put(api, "/quotas/stripe/throttle", body)).status_code == 422


async def test_what_is_for_one_account_is_refused_for_all(api: Any) -> None:
    await put(api, "/quotas/stripe?account=*", DAILY)
    wedding, now = await a_wedding(api, "everywhere"), utc_now()
    kept = {
        "wedding_id": wedding,
        "calls": 1,
        "starts_at": now.isoformat(),
        "ends_at": (now + timedelta(1)).isoformat(),
    }
    answers = [
        await put(api, "/quotas/stripe/throttle?account=*", {"percent": 0}),
        await api.http.delete("/api/v1/quotas/stripe/throttle?account=*"),
        await api.http.delete("/api/v1/quotas/stripe/block?account=*"),
        await api.post("/quotas/stripe/reservations?account=*", kept),
        await api.http.delete("/api/v1/quotas/stripe/reservations/r?account=*"),
    ]
    assert [answer.status_code for answer in answers] == [422] * 5
    assert "name the one that is meant" in answers[0].json()["detail"]
    assert (await put(api, "/quotas/stripe/throttle", {"percent": 0})).status_code == 200


async def test_what_others_reserve_is_a_sum(api: Any) -> None:
    await put(api, "/quotas/stripe", DAILY)
    wedding, now = await a_wedding(api, "discreet"), utc_now()
    times = {"starts_at": now.isoformat(), "ends_at": (now + timedelta(hours=5)).isoformat()}
    await api.post("/quotas/stripe/reservations", {"wedding_id": wedding, "calls": 5, **times})
    key = new_api_key()
    hashed = hash_api_key(key, api.settings.api_key_pepper.get_secret_value())
    async with api.db.system() as conn:
        await access.add_organization(conn, "rival", "Rival", now)
        await access.add_key(conn, "rival", new_id(), "key", hashed, now)
    for path in ("/quotas/stripe", "/quotas"):
        answers = [
            await api.http.get(f"/api/v1{path}", headers=headers)
            for headers in ({}, {"Authorization": f"Bearer {key}"})
        ]
        ours, theirs = (
            next(one for one in answer.json().get("data", [answer.json()]) if one["service"] == "stripe")
            for answer in answers
        )
        assert ([one["calls"] for one in ours["reservations"]], ours["reserved_by_others"]) == ([5], 0)
        assert (theirs["reservations"], theirs["reserved_by_others"]) == ([], 5)
        assert wedding not in answers[1].text


async def test_many_reservations_at_once_keep_nobody_waiting(api: Any) -> None:
    await put(api, "/quotas/stripe", DAILY)
    wedding, now = await a_wedding(api, "crowd"), utc_now()
    times = {"starts_at": now.isoformat(), "ends_at": (now + timedelta(hours=5)).isoformat()}
    wanted = {"wedding_id": wedding, "calls": 1, **times}
    async with asyncio.timeout(8):
        asked = [api.post("/quotas/stripe/reservations", wanted) for _ in range(3 * api.settings.database_pool_size)]
        *answers, other = await asyncio.gather(*asked, api.get("/weddings"))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == len(answers)
    assert other.status_code == 200


async def test_a_reservation_is_made_once_shown_and_given_back(api: Any, controller: AdmissionController) -> None:
    await put(api, "/quotas/stripe", DAILY)
    wedding = await a_wedding(api, "reserving")
    now = utc_now()
    body = {
        "wedding_id": wedding,
        "calls": 30,
        "starts_at": now.isoformat(),
        "ends_at": (now + timedelta(hours=1)).isoformat(),
    }
    headers = {"Idempotency-Key": "keep-30"}
    path = "/api/v1/quotas/stripe/reservations"
    made = [await api.http.post(path, json=body, headers=headers) for _ in range(2)]
    assert [response.status_code for response in made] == [201, 201], made[0].text
    assert made[0].json() == made[1].json()
    shown = (await api.get("/quotas/stripe")).json()
    assert [one["calls"] for one in shown["reservations"]] == [30]
    assert shown["windows"][0]["reserved"] == 30
    gone = await api.http.delete(f"{path}/{made[0].json()['id']}")
    assert gone.status_code == 204
    assert (await api.get("/quotas/stripe")).json()["reservations"] == []
    assert (await api.http.delete(f"{path}/{made[0].json()['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"calls": 90}, 409, "quota_full"),
        ({"wedding_id": "nobody-s"}, 404, "not_found"),
        ({"hours": -1}, 422, "invalid_input"),
        ({"wedding_id": "a\u0000"}, 422, "invalid_input"),
        ({"ends_at": "9999-12-31T12:00:00Z"}, 422, "invalid_input"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, 422, "invalid_input"),
    ],
)
async def test_a_reservation_that_can_not_be_says_why(
    api: Any, controller: AdmissionController, changes: dict[str, Any], status: int, code: str
) -> None:
    await put(api, "/quotas/stripe", DAILY)
    now, hours = utc_now(), changes.pop("hours", 1)
    wedding = await a_wedding(api, f"refused-{code.replace('_', '-')}")
    times = {"starts_at": now.isoformat(), "ends_at": (now + timedelta(hours=hours)).isoformat()}
    body = {"wedding_id": wedding, "calls": 10, **times, **changes}
    headers = {"Idempotency-Key": f"refused-{code}"}
    response = await api.http.post("/api/v1/quotas/stripe/reservations", json=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


async def test_a_long_reservation_leaves_every_day_its_part_for_others(
    api: Any, controller: AdmissionController
) -> None:
    await put(api, "/quotas/stripe", DAILY)
    wedding, now = await a_wedding(api, "far-seeing"), utc_now()
    times = {"starts_at": now.isoformat(), "ends_at": (now + timedelta(days=30)).isoformat()}
    made = [
        await api.post("/quotas/stripe/reservations", {"wedding_id": wedding, "calls": 1000, **times}) for _ in range(3)
    ]
    assert [response.status_code for response in made] == [201, 201, 409], made[0].text
    assert "100 calls would be kept of stripe's day" in made[2].json()["detail"]
    assert (await api.get("/quotas/stripe")).json()["windows"][0]["reserved"] == 67
    await controller.routing_table.load()
    await send(controller)
    await send(controller, is_wedding_day=True)


async def test_plans_tell_what_will_be_wanted_weeks_ahead(api: Any, controller: AdmissionController) -> None:
    await put(api, "/quotas/resend", {"windows": [{"window": "day", "limit": 2}]})
    for number in range(4):
        await a_wedding(api, f"forecast-{number}")
    async with controller.breakers.db.system() as conn:
        await conn.execute(
            text("UPDATE steps SET status = 'scheduled', due_at = :at WHERE step_id = 'email'"),
            {"at": utc_now() + timedelta(days=14)},
        )
    found = (await api.get("/quotas/forecast?days=28")).json()
    (conflict,) = found["conflicts"]
    assert (conflict["service"], conflict["window"], conflict["limit"]) == ("resend", "day", 2)
    assert conflict["calls"] >= 4
    assert (await api.get("/quotas/forecast?days=7")).json()["conflicts"] == []


async def test_a_schedule_says_what_goes_at_once_what_waits_and_what_can_not_be(
    api: Any, controller: AdmissionController
) -> None:
    await put(api, "/quotas/stripe", DAILY)
    wanted = [
        {"id": "now", "service": "stripe", "calls": 60},
        {"id": "later", "service": "stripe", "calls": 60, "priority": "low"},
        {"id": "never", "service": "stripe", "calls": 101, "may_be_spread": False},
        {"id": "free", "service": "twilio", "calls": 5},
    ]
    response = await api.post("/quotas/schedule", {"requests": wanted})
    assert response.status_code == 200, response.text
    found = response.json()
    assert sorted(one["id"] for one in found["immediate"]) == ["free", "now"]
    assert [one["id"] for one in found["delayed"]] == ["later"]
    assert [one["id"] for one in found["conflicts"]] == ["never"]
    assert found["priority_adjustments"] == []
    assert found["estimated_completion"] == found["delayed"][0]["ends_at"]


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [{"id": "a", "service": "nobody", "calls": 1}],
        [{"id": "a", "service": "stripe", "calls": 1}, {"id": "a", "service": "stripe", "calls": 1}],
        [{"id": "a", "service": "stripe", "calls": 1, "wedding_id": "nobody-s"}],
        [{"id": "a", "service": "stripe", "calls": 1, "wedding_id": "a\u0000"}],
        [{"id": "a", "service": "stripe", "calls": 1, "not_before": "2027-07-01T00:00:00"}],
        [{"id": "a", "service": "stripe", "calls": 1, "deadline": "2027-07-01T00:00:00"}],
    ],
)
async def test_a_schedule_of_what_is_not_is_refused(api: Any, requests: Any) -> None:
    assert (await api.post("/quotas/schedule", {"requests": requests})).status_code == 422


async def test_nobody_waits_while_the_largest_schedule_is_made(api: Any) -> None:
    await put(api, "/quotas/stripe", {"windows": [{"window": "minute", "limit": 600}]})
    due = (utc_now() + timedelta(days=20)).isoformat()
    wanted = [
        {"id": str(n), "service": "stripe", "calls": 100_000, "priority": "low", "deadline": due} for n in range(200)
    ]
    asked = asyncio.create_task(api.post("/quotas/schedule", {"requests": wanted}))
    longest, last = 0.0, time.monotonic()
    while not asked.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    response = asked.result()
    assert response.status_code == 200, response.text
    assert len(response.json()["delayed"]) + len(response.json()["conflicts"]) == 200
    assert longest < 1


async def test_an_operator_lifts_a_block_and_the_vendor_s_next_word_holds_again(
    api: Any, controller: AdmissionController
) -> None:
    await put(api, "/quotas/stripe", DAILY)
    await controller.routing_table.load()

    async def refuse() -> None:
        admission = await controller.admit(a_call())
        await controller.complete(
            admission, a_call(), "send", VendorThrottled("slow down", status=429, retry_after_seconds=86_400), 0.01
        )

    async def is_blocked() -> bool:
        return (await api.get("/quotas/stripe")).json()["blocked_until"] is not None

    async def goes_out() -> bool:
        try:
            await send(controller)
        except ThrottledUntil:
            return False
        return True

    await refuse()
    await eventually(is_blocked)
    assert not await goes_out()
    lifted = await api.http.delete("/api/v1/quotas/stripe/block")
    assert (lifted.status_code, lifted.json()["blocked_until"]) == (200, None)
    # Also in the process that was told itself.
    await eventually(goes_out, 2)
    await refuse()
    await eventually(is_blocked)
    assert not await goes_out()
    (audited,) = await rows(controller, "SELECT subject, detail FROM audit_log WHERE action = 'quota.unblocked'")
    assert (audited.subject, audited.detail["account"]) == ("quota/stripe", "default")
    assert (await api.http.delete("/api/v1/quotas/nobody/block")).status_code == 404


async def test_limits_set_by_hand_replace_what_the_vendor_s_answers_said(
    api: Any, controller: AdmissionController
) -> None:
    await put(api, "/quotas/stripe?account=*", DAILY)
    await controller.routing_table.load()
    await send(controller)

    async def shown() -> int:
        await send(controller)
        return int((await api.get("/quotas/stripe")).json()["windows"][0]["limit"])

    async def is_learned() -> bool:
        return await shown() == 60

    controller.rate_limiter.learn(
        "stripe", "default", {"ratelimit": '"d";r=50', "ratelimit-policy": '"d";q=60;w=86400'}
    )
    await eventually(is_learned)
    await put(api, "/quotas/stripe?account=*", {"windows": [{"window": "day", "limit": 6000}]})

    async def is_forgotten() -> bool:
        return await shown() == 6000

    await eventually(is_forgotten)
    # And stays forgotten: what was learned before says nothing of the new limits.
    assert await shown() == 6000
