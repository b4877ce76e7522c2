from __future__ import annotations

import asyncio
import hmac
import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook

from tests.support.outgoing import PostOffice, open_post_office
from tests.support.receivers import Receiver
from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.kit.clock import utc_now
from wedsync.kit.lookups import Lookups
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox.tables import webhook_subscriptions
from wedsync.usecases.outbox import subscribe
from wedsync.usecases.outbox.delivery_sender import LEASE, DeliveryLimits
from wedsync.usecases.outbox.send import PUT_OFF, TIMEOUT_SECONDS


async def test_an_event_reaches_its_subscriber_as_documented_and_signed(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url(), "payment.*")
    wedding = await office.wedding()
    await office.dispatch(wedding_id=wedding, sequence=7)
    await office.dispatch(event_type="step.failed")
    assert await office.send() == 1
    (request,) = receiver.requests
    (delivery,) = await office.deliveries()
    (event,) = await office.events()
    assert request.event == {
        "id": event.id,
        "type": "payment.captured",
        "data": {"id": "thing-1"},
        "timestamp": event.occurred_at.isoformat().replace("+00:00", "Z"),
        "organization_id": "o1",
        "wedding_id": wedding,
        "sequence": 7,
        "api_version": "2026-11-01",
    }
    assert request.headers["user-agent"] == "WedSync-Webhooks/1.0"
    assert request.headers["x-wedsync-delivery"] == delivery.id
    assert request.headers["webhook-id"] == event.id
    for oracle in (Webhook, SvixWebhook):
        oracle(office.secrets[subscription]).verify(request.body.decode(), request.headers)
    stamp, signature = request.headers["x-wedsync-signature"].split(",")
    signed = stamp.removeprefix("t=").encode() + b"." + request.body
    expected = hmac.digest(office.secrets[subscription].encode(), signed, "sha256").hex()
    assert signature == f"v1={expected}"
    assert (delivery.status, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)
    row = await office.row(subscription)
    assert (row.success_count, row.failure_count, row.last_delivery_at is not None) == (1, 0, True)


async def test_a_thin_payload_names_the_object_and_no_more(office: PostOffice, receiver: Receiver) -> None:
    await office.subscribe(receiver.url(), payload="thin")
    async with office.db.tenant("o1") as conn:
        await outbox.announce(
            conn, "o1", [DomainEvent(type="step.failed", data={"id": "s", "vendor": "stripe"})], utc_now()
        )
    await office.send()
    assert receiver.requests[0].event["data"] == {"id": "s"}


async def test_many_events_are_sent_once_each_with_few_requests_at_a_time(
    office: PostOffice, receiver: Receiver
) -> None:
    await office.subscribe(receiver.url())
    await office.dispatch(300)
    # On a machine that stalls some are given back, and counted again when they are claimed anew.
    assert await office.send() >= 300
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert (len(ids), len(set(ids))) == (300, 300)
    assert await office.statuses() == {"delivered": 300}


async def test_hanging_endpoints_do_not_hold_up_the_others(fresh_database_urls: Any, receiver: Receiver) -> None:
    receiver.answer = lambda request: None if request.path == "/hang" else (200, {})
    limits = DeliveryLimits(young=10, slow_after_seconds=0.3, run_seconds=60)
    async with open_post_office(fresh_database_urls.app, timeout_seconds=4, limits=limits) as office:
        hanging = [await office.subscribe(receiver.url("/hang")) for _ in range(10)]
        healthy = [await office.subscribe(receiver.url(f"/well-{number}")) for number in range(20)]
        await office.dispatch(5)
        await office.delivery_sender.run()
        # The hanging ones alone would fill every place, and the run is over before they time out.
        assert sum(request.path != "/hang" for request in receiver.requests) == 100
        # Few at once to each of them, none after the first timeouts.
        for name in hanging:
            await office.until_status(name, "failing")
        assert {(await office.row(name)).status for name in healthy} == {"active"}
        assert len(receiver.types("/hang")) <= 40
        asked = len(receiver.requests)
        await office.send()
        assert len(receiver.requests) == asked


async def test_a_rate_limit_is_kept_and_says_when_there_is_room(office: PostOffice, receiver: Receiver) -> None:
    await office.subscribe(receiver.url(), rate_per_second=2)
    await office.dispatch(4)
    answer = await office.delivery_sender.run()
    assert len(receiver.requests) == 2
    assert answer.next_due_seconds is not None
    assert 0 < answer.next_due_seconds <= 0.6


async def test_ordered_delivery_sends_a_weddings_events_one_after_another(
    office: PostOffice, receiver: Receiver
) -> None:
    await office.subscribe(receiver.url(), ordered=True)
    weddings = [await office.wedding() for _ in range(3)]
    for sequence in range(1, 6):
        for wedding in weddings:
            await office.dispatch(wedding_id=wedding, sequence=sequence)
    for _ in range(10):
        await office.send()
    for wedding in weddings:
        got = [r.event["sequence"] for r in receiver.requests if r.event["wedding_id"] == wedding]
        assert got == [1, 2, 3, 4, 5]


async def test_a_paused_subscription_parks_its_events(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url())
    async with office.db.tenant("o1") as conn:
        await subscribe.pause(conn, office.principal, subscription, utc_now())
    await office.dispatch(3)
    await office.send()
    assert (receiver.requests, await office.statuses()) == ([], {"pending": 3})
    async with office.db.tenant("o1") as conn:
        await subscribe.resume(conn, office.principal, subscription, utc_now())
    row, _ = await office.until_recorded(subscription, utc_now())
    assert (row.status, await office.statuses()) == ("active", {"delivered": 3})
    assert [request.event["data"]["id"] for request in receiver.requests] == ["thing-1", "thing-2", "thing-3"]


async def test_what_a_dead_process_had_in_hand_is_sent_again_with_the_same_id(
    office: PostOffice, receiver: Receiver, fresh_database_urls: Any
) -> None:
    await office.subscribe(receiver.url())
    await office.dispatch()
    receiver.answer = lambda request: None
    running = asyncio.create_task(office.delivery_sender.run())
    await receiver.until(1)
    # As SIGKILL leaves it: the request was received, nothing was recorded.
    await office.delivery_sender.close()
    await running
    assert await office.statuses() == {"pending": 1}
    receiver.answer = lambda request: (200, {})
    assert await office.send() == 0
    await office.expire_leases()
    assert await office.send() == 1
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert await office.statuses() == {"delivered": 1}


async def test_a_redirect_is_not_followed_and_counts_as_a_failure(office: PostOffice, receiver: Receiver) -> None:
    receiver.answer = lambda request: (302, {"Location": receiver.url("/elsewhere")})
    await office.subscribe(receiver.url())
    await office.dispatch()
    await office.send()
    assert [request.path for request in receiver.requests] == ["/hook"]
    (delivery,) = await office.deliveries()
    assert (delivery.status, delivery.last_status, delivery.last_error) == ("retrying", 302, "answered 302")


async def test_every_attempt_is_recorded_with_its_answer(office: PostOffice, receiver: Receiver) -> None:
    receiver.answer = lambda request: (500, {})
    await office.subscribe(receiver.url())
    await office.dispatch()
    await office.send()
    (attempt,) = await office.attempts()
    assert (attempt.number, attempt.status, attempt.response, attempt.error) == (1, 500, "ok", "answered 500")
    assert attempt.duration_ms >= 0


async def test_a_body_is_utf8_json_whatever_is_in_it(office: PostOffice, receiver: Receiver) -> None:
    await office.subscribe(receiver.url())
    async with office.db.tenant("o1") as conn:
        await outbox.announce(conn, "o1", [DomainEvent(type="step.failed", data={"id": "é\u2028😀"})], utc_now())
    await office.send()
    assert json.loads(receiver.requests[0].body)["data"]["id"] == "é\u2028😀"


def test_a_lease_outlasts_an_attempt() -> None:
    assert timedelta(seconds=3 * TIMEOUT_SECONDS) < LEASE


@pytest.mark.parametrize("count", [1, 250])
async def test_events_that_nobody_wants_leave_no_trace(fresh_database_urls: Any, count: int) -> None:
    async with open_post_office(fresh_database_urls.app) as office:
        await office.dispatch(count)
        assert (await office.events(), await office.deliveries()) == ([], [])


async def test_a_delivery_whose_host_could_not_even_be_looked_up_is_put_off_not_attempted(
    fresh_database_urls: Any, receiver: Receiver
) -> None:
    free = threading.Event()

    def result(host: str) -> tuple[str, ...]:
        if host.startswith("hang"):
            free.wait(30)
        return ("127.0.0.1",)

    lookups = Lookups(result, threads=2, each=2, seconds=0.3)
    async with open_post_office(fresh_database_urls.app, resolver=lookups) as office:
        # They hold what the organization has of lookups.
        for number in range(2):
            await office.subscribe(f"https://hang-{number}.test:1/")
        await office.dispatch(1)
        await office.delivery_sender.run()
        well = await office.subscribe(receiver.url().replace("127.0.0.1", "localhost"))
        await office.dispatch(1)
        await office.delivery_sender.run()
        await office.delivery_sender.idle()
        (delivery,) = await office.deliveries(well)
        assert (delivery.status, delivery.attempts, delivery.leased_until) == ("pending", 0, None)
        assert (await office.row(well)).status == "active"
        async with office.db.system() as conn:
            await conn.execute(
                update(webhook_subscriptions).where(webhook_subscriptions.c.id == well).values(status="failing")
            )
        probed = await office.wake(well, utc_now())
        assert (probed.status, probed.sent, probed.wait_seconds) == ("failing", 0, PUT_OFF.total_seconds())
        free.set()
        await office.until_recorded(well, utc_now() + PUT_OFF)
        assert await office.statuses(well) == {"delivered": 1}
