from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, update

from tests.support.outgoing import KEYRING, PostOffice
from tests.support.receivers import Receiver
from wedsync.domain.outbox import schedule
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.kit.clock import utc_now
from wedsync.store.access.tables import organizations
from wedsync.store.incidents.tables import notification_channels, notifications
from wedsync.store.outbox.tables import webhook_subscriptions
from wedsync.usecases.outbox import replay, subscribe
from wedsync.usecases.outbox.read import list_operational_events
from wedsync.usecases.outbox.sweep import GRACE, sweep_outbox


def channel(channel_id: str, organization_id: str) -> dict[str, object]:
    """A channel that tells everything."""
    return {
        "id": channel_id, "organization_id": organization_id, "name": channel_id, "kind": "log", "target": "",
        "events": [], "least_severity": 0, "dedup_seconds": 300, "created_at": utc_now(), "created_by": "k",
    }  # fmt: skip


async def failing(office: PostOffice, receiver: Receiver, count: int = 3, **changes: object) -> str:
    """A subscription whose endpoint answers 500, with parked events."""
    receiver.answer = lambda request: (500, {}) if request.path == "/hook" else (200, {})
    subscription = await office.subscribe(receiver.url(), "payment.*", **changes)
    await office.dispatch(count)
    await office.send()
    return subscription


async def test_an_endpoint_that_fails_gets_one_probe_at_a_time_until_it_is_exhausted(
    office: PostOffice, receiver: Receiver
) -> None:
    watcher = await office.subscribe(receiver.url("/watch"), "endpoint.*")
    subscription = await failing(office, receiver)
    began = utc_now()
    assert (await office.row(subscription)).status == "failing"
    first_attempts = len(receiver.requests)
    row, ended = await office.until_recorded(subscription, began)
    assert (row.status, row.reason) == ("disabled", "exhausted")
    whole = schedule.total(DeliveryRetryPolicy())
    assert 0.89 * whole < ended - began <= whole + timedelta(minutes=1)
    # One probe a round, of whichever delivery was tried least.
    assert len(receiver.requests) - first_attempts == 7
    assert await office.statuses(subscription) == {"retrying": 3}
    told = [event for event in await office.events() if event.type.startswith("endpoint.")]
    assert [event.type for event in told] == ["endpoint.warning"] * 3 + ["endpoint.disabled"]
    assert [event.data["percent"] for event in told] == [50, 70, 90, None]
    assert [event.data["parked"] for event in told] == [3] * 4
    assert [row.event_id for row in await office.deliveries(watcher)] == [event.id for event in told]


async def test_what_a_disabled_endpoint_missed_is_kept_and_sent_in_order_after_it_is_resumed(
    office: PostOffice, receiver: Receiver
) -> None:
    subscription = await failing(office, receiver, retry_policy={"max_attempts": 2, "backoff": "fixed"})
    await office.until_recorded(subscription, utc_now())
    await office.dispatch(2, event_type="payment.refunded")
    receiver.answer = lambda request: (200, {})
    receiver.requests.clear()
    async with office.db.tenant("o1") as conn:
        await subscribe.resume(conn, office.principal, subscription, utc_now())
    row, _ = await office.until_recorded(subscription, utc_now() + timedelta(seconds=1))
    assert row.status == "active"
    statuses = await office.statuses(subscription)
    async with office.db.tenant("o1") as conn:
        again = replay.DeliveryReplay(since=utc_now() - timedelta(hours=1))
        count = (await replay.replay_many(conn, office.principal, subscription, again, utc_now())).count
    assert count == statuses.get("failed", 0)
    await office.send()
    assert await office.statuses(subscription) == {"delivered": 5}
    numbers = [row.number for row in await office.deliveries(subscription)]
    assert numbers == sorted(numbers)


async def test_an_answered_probe_lets_everything_parked_follow_in_order(office: PostOffice, receiver: Receiver) -> None:
    subscription = await failing(office, receiver, 5, ordered=True)
    await office.dispatch(20)
    await office.send()
    assert (await office.row(subscription)).status == "failing"
    receiver.requests.clear()
    receiver.answer = lambda request: (200, {})
    row, ended = await office.until_recorded(subscription, utc_now())
    assert row.status == "active"
    assert ended - utc_now() < timedelta(seconds=10)
    assert await office.statuses(subscription) == {"delivered": 25}
    assert len(receiver.requests) == 25


async def test_an_event_that_alone_is_refused_does_not_stop_its_endpoint(
    office: PostOffice, receiver: Receiver
) -> None:
    subscription = await office.subscribe(receiver.url(), retry_policy={"max_attempts": 3})
    receiver.answer = lambda request: (422, {}) if request.event["data"]["id"] == "thing-2" else (200, {})
    await office.dispatch(4)
    await office.send()
    assert (await office.row(subscription)).status == "active"
    assert await office.statuses() == {"delivered": 3, "retrying": 1}
    row, ended = await office.until_recorded(subscription, utc_now())
    assert row.status == "active"
    assert ended - utc_now() > timedelta(minutes=4)
    # It is told itself of what it will not get.
    assert await office.statuses() == {"delivered": 3, "failed": 1, "pending": 1}
    given_up = next(row for row in await office.deliveries() if row.status == "failed")
    told = (await office.events())[-1]
    assert (told.type, told.data["id"], told.data["attempts"]) == ("delivery.failed", given_up.id, 3)
    assert (told.data["event_type"], told.data["last_status"]) == ("payment.captured", 422)


async def test_a_delivery_failed_that_is_given_up_itself_makes_no_further_one(
    office: PostOffice, receiver: Receiver
) -> None:
    subscription = await office.subscribe(receiver.url(), retry_policy={"max_attempts": 1})
    receiver.answer = lambda request: (422, {})
    await office.dispatch(1)
    for _ in range(3):
        await office.send()
    assert [event.type for event in await office.events()] == ["payment.captured", "delivery.failed"]
    assert await office.statuses(subscription) == {"failed": 2}


async def test_of_the_only_subscription_it_is_kept_what_became_of_it_and_operators_are_told(
    office: PostOffice, receiver: Receiver
) -> None:
    async with office.db.system() as conn:
        others = {"id": "o2", "name": "Another", "created_at": utc_now()}
        await conn.execute(insert(organizations).values(others))
        for number, organization in enumerate(("o1", "o2")):
            await conn.execute(insert(notification_channels).values(channel(f"c{number}", organization)))
    subscription = await failing(office, receiver, retry_policy={"max_attempts": 3})
    assert (await office.until_recorded(subscription, utc_now()))[0].status == "disabled"
    async with office.db.tenant("o1") as conn:
        first = await list_operational_events(conn, subscription, 3, None)
        rest = await list_operational_events(conn, subscription, 3, first.next_cursor)
    kinds = [item.type for item in (*first.data, *rest.data)]
    assert kinds == ["endpoint.disabled", "endpoint.warning", "endpoint.warning", "endpoint.warning"]
    assert (rest.next_cursor, len(await office.deliveries())) == (None, 3)
    async with office.db.system() as conn:
        told = (await conn.execute(select(notifications).order_by(notifications.c.created_at))).all()
    assert {row.channel_id for row in told} == {"c0"}
    assert [row.notice["kind"] for row in told] == ["endpoint.warning"] * 3 + ["endpoint.disabled"]
    assert receiver.url() not in str([row.notice for row in told])


async def test_a_subscription_is_told_of_its_own_disabling_once_it_is_resumed(
    office: PostOffice, receiver: Receiver
) -> None:
    receiver.answer = lambda request: (500, {})
    subscription = await office.subscribe(receiver.url(), "endpoint.*", "payment.*", retry_policy={"max_attempts": 2})
    await office.dispatch(3)
    await office.send()
    assert (await office.until_recorded(subscription, utc_now()))[0].status == "disabled"
    receiver.answer = lambda request: (200, {})
    receiver.requests.clear()
    async with office.db.tenant("o1") as conn:
        await subscribe.resume(conn, office.principal, subscription, utc_now())
    await office.until_recorded(subscription, utc_now() + timedelta(minutes=1))
    assert "endpoint.disabled" in receiver.types()


async def test_410_disables_at_once(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url())
    receiver.answer = lambda request: (410, {})
    await office.dispatch(1)
    await office.send()
    row = await office.row(subscription)
    assert (row.status, row.reason) == ("disabled", "gone")
    await office.dispatch(1)
    await office.send()
    assert len(receiver.requests) == 1


async def test_429_waits_as_told_and_then_goes_slowly(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url(), "payment.*")
    receiver.answer = lambda request: (429, {"Retry-After": "120"})
    await office.dispatch(12)
    await office.send()
    row = await office.row(subscription)
    assert (row.status, row.reason) == ("failing", "throttled")
    now = utc_now()
    result = await office.wake(subscription, now)
    assert result.wait_seconds is not None
    assert 110 < result.wait_seconds <= 121
    receiver.answer = lambda request: (200, {})
    before = len(receiver.requests)
    now += timedelta(seconds=121)
    assert (await office.wake(subscription, now)).sent == 1
    assert (await office.row(subscription)).pace_per_second < 8
    second = await office.wake(subscription, now)
    assert second.sent < 8
    assert second.wait_seconds
    row, _ = await office.until_recorded(subscription, now)
    assert (row.status, row.pace_per_second) == ("active", None)
    assert await office.statuses() == {"delivered": 12}
    assert len(receiver.requests) == before + 12


async def test_an_absurd_retry_after_is_capped(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url())
    receiver.answer = lambda request: (503, {"Retry-After": "999999999999"})
    await office.dispatch(3)
    await office.send()
    result = await office.wake(subscription, utc_now())
    assert result.wait_seconds is not None
    assert 3500 < result.wait_seconds <= 3600


async def test_events_that_end_with_the_day_are_tried_faster_as_it_comes_near(
    office: PostOffice, receiver: Receiver
) -> None:
    subscription = await office.subscribe(receiver.url())
    receiver.answer = lambda request: (500, {})
    soon = utc_now() + timedelta(hours=2)
    wedding = await office.wedding(soon)
    await office.dispatch(1, "timeline.changed", wedding_id=wedding, sequence=1, useful_until=soon.astimezone(UTC))
    await office.send()
    now, attempts = utc_now(), 0
    while now < soon:
        result = await office.wake(subscription, now)
        attempts += result.sent
        if result.wait_seconds is None:
            break
        now += timedelta(seconds=result.wait_seconds)
    assert attempts >= 6


async def test_an_urgent_event_neither_disables_its_endpoint_nor_costs_the_others_their_attempts(
    office: PostOffice, receiver: Receiver
) -> None:
    subscription = await office.subscribe(receiver.url(), "payment.*", "step.*")
    receiver.answer = lambda request: (500, {})
    soon = utc_now() + timedelta(minutes=2)
    wedding = await office.wedding(soon)
    await office.dispatch(3, "step.failed", wedding_id=wedding, sequence=1, useful_until=soon.astimezone(UTC))
    await office.dispatch(1, "payment.captured")
    await office.send()
    now, probes = utc_now(), 0
    while now < soon + timedelta(minutes=30):
        result = await office.wake(subscription, now)
        probes += result.sent
        assert result.wait_seconds is not None
        now += timedelta(seconds=result.wait_seconds)
    assert probes > 8
    row = await office.row(subscription)
    assert (row.status, row.warned) == ("failing", 0)
    payment = (await office.deliveries(subscription))[-1]
    assert payment.status == "retrying"
    assert payment.tries <= 5 < payment.attempts


@pytest.mark.parametrize(
    "said", ["Thu, 01 Jan 2026 00:00:00 +99999999999999999999", "Thu, 99 Jan 99999 00:00:00 GMT", "-5", "soon"]
)
async def test_a_retry_after_that_no_clock_can_read_leaves_a_recorded_attempt(
    office: PostOffice, receiver: Receiver, said: str
) -> None:
    subscription = await office.subscribe(receiver.url())
    receiver.answer = lambda request: (503, {"Retry-After": said})
    await office.dispatch(1)
    await office.send()
    (delivery,) = await office.deliveries(subscription)
    assert (delivery.status, delivery.attempts, delivery.last_status) == ("retrying", 1, 503)
    assert delivery.leased_until is None


async def test_what_breaks_while_a_delivery_is_sent_is_a_failed_attempt(office: PostOffice, receiver: Receiver) -> None:
    subscription = await office.subscribe(receiver.url())
    await office.dispatch(1)
    sealed = KEYRING.seal(b"[{}]", tenant="o1", row=f"webhook_subscription:{subscription}")
    async with office.db.system() as conn:
        await conn.execute(update(webhook_subscriptions).values(secrets=sealed))
    await office.send()
    (delivery,) = await office.deliveries(subscription)
    assert (delivery.status, delivery.attempts) == ("retrying", 1)
    assert delivery.last_error.startswith("it can't be sent (")


async def test_the_sweep_finds_endpoints_and_deliveries_that_were_missed(
    office: PostOffice, receiver: Receiver
) -> None:
    asked: list[str] = []

    class Client:
        async def start_workflow(self, name: str, *args: object, id: str, **options: object) -> None:
            asked.append(id)

    async def provider() -> Client:
        return Client()

    now = utc_now()
    assert (await sweep_outbox(office.db, provider, now + GRACE)).is_drained is False  # type: ignore[arg-type]
    subscription = await failing(office, receiver)
    await office.subscribe(receiver.url("/other"), "wedding.*")
    await office.dispatch(1, "wedding.updated")
    swept = await sweep_outbox(office.db, provider, utc_now() + timedelta(minutes=2))  # type: ignore[arg-type]
    assert (swept.is_drained, swept.subscriptions) == (True, 1)
    assert asked == ["outbox:0", f"endpoint:{subscription}"]


async def test_a_stopped_endpoint_is_left_alone(office: PostOffice, receiver: Receiver) -> None:
    subscription = await failing(office, receiver)
    async with office.db.tenant("o1") as conn:
        await subscribe.pause(conn, office.principal, subscription, utc_now())
    result = await office.wake(subscription, datetime(2040, 1, 1, tzinfo=UTC))
    assert (result.status, result.sent, result.wait_seconds) == ("paused", 0, None)
    assert (await office.wake("nobody", utc_now())).status == "deleted"
