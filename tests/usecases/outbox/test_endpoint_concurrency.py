from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.outgoing import open_post_office
from tests.support.receivers import Receiver
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Event
from wedsync.kit.clock import utc_now
from wedsync.store.outbox.deliveries import Claimed
from wedsync.usecases.outbox.delivery_sender import DeliveryLimits
from wedsync.usecases.outbox.endpoint_concurrency import EndpointConcurrency

NOW = datetime(2031, 6, 19, 14, tzinfo=UTC)


def claimed(number: int, endpoint: str = "s1", **changes: Any) -> Claimed:
    event = Event(
        id=f"e{number}", type="step.failed", data={"id": "x"}, occurred_at=NOW, organization_id="o1", wedding_id=None,
        sequence=None,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "id": f"{endpoint}-{number}", "subscription_id": endpoint, "tries": 0, "url": "https://example.org",
        "sealed_secrets": b"", "payload": "full", "api_version": "2026-11-01", "rate_per_second": None,
        "pace_per_second": None, "policy": DeliveryRetryPolicy(), "event": event, "useful_until": None,
    }  # fmt: skip
    return Claimed.model_validate({**facts, **changes})


class Clock:
    """Seconds that pass when a test says so."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def new_concurrency(clock: Clock | None = None) -> EndpointConcurrency:
    return EndpointConcurrency(each=4, ahead=64, slow_after_seconds=1, hold_seconds=2, clock=clock or Clock())


def answer(concurrency: EndpointConcurrency, items: list[Claimed], *, is_well: bool = True) -> None:
    for item in items:
        concurrency.landed(item, is_well=is_well)


def serve(concurrency: EndpointConcurrency, count: int, endpoint: str = "s1", **changes: Any) -> None:
    """Let so many be answered and recorded, one after another, with the last still under way."""
    keep = claimed(10_000, endpoint, **changes)
    concurrency.add(keep)
    concurrency.acquire(1)
    for number in range(count):
        item = claimed(number, endpoint, **changes)
        concurrency.add(item)
        answer(concurrency, concurrency.acquire(1))
        concurrency.recorded(item, is_well=True)


def test_few_requests_to_an_endpoint_are_under_way_at_once_and_the_others_are_not_kept_waiting() -> None:
    concurrency = new_concurrency()
    for number in range(10):
        concurrency.add(claimed(number))
    concurrency.add(claimed(0, "s2"))
    acquired = concurrency.acquire(100)
    assert sorted(item.id for item in acquired) == ["s1-0", "s1-1", "s1-2", "s1-3", "s2-0"]
    assert (concurrency.waiting, concurrency.flying) == (6, 5)
    answer(concurrency, [acquired[0]])
    assert [item.id for item in concurrency.acquire(100)] == ["s1-4"]


def test_places_are_shared_out_in_turn() -> None:
    concurrency = new_concurrency()
    for endpoint in ("s1", "s2", "s3"):
        for number in range(4):
            concurrency.add(claimed(number, endpoint))
    assert [item.id for item in concurrency.acquire(4)] == ["s1-0", "s2-0", "s3-0", "s1-1"]


def test_an_endpoint_that_answers_well_is_claimed_for_ahead_many_at_once() -> None:
    concurrency = new_concurrency()
    serve(concurrency, 10)
    assert concurrency.room() == {"s1": 13}
    serve_more = [claimed(number) for number in range(100, 108)]
    for item in serve_more:
        concurrency.add(item)
    # More than half of what may be in hand is: the database is not asked for the rest yet.
    assert (concurrency.room(), concurrency.wants("s1")) == ({"s1": 0}, False)


def test_no_more_is_in_hand_than_is_sent_within_moments() -> None:
    concurrency = new_concurrency()
    serve(concurrency, 500)
    assert concurrency.room() == {"s1": 63}


@pytest.mark.parametrize("rate", [{"rate_per_second": 5.0}, {"pace_per_second": 5.0}])
def test_an_endpoint_with_a_rate_is_not_claimed_for_ahead(rate: dict[str, float]) -> None:
    concurrency = new_concurrency()
    serve(concurrency, 50, **rate)
    assert concurrency.room() == {"s1": 3}


def test_a_failure_gives_back_what_waits_and_stops_the_lane_until_it_is_recorded() -> None:
    concurrency = new_concurrency()
    for number in range(10):
        concurrency.add(claimed(number))
    acquired = concurrency.acquire(100)
    answer(concurrency, acquired, is_well=False)
    assert (concurrency.acquire(100), concurrency.room()) == ([], {"s1": 0})
    assert [item.id for item in concurrency.give_back()] == [f"s1-{number}" for number in range(4, 10)]
    for item in acquired:
        concurrency.recorded(item, is_well=False)
    assert (concurrency.room(), concurrency.waiting, concurrency.flying) == ({}, 0, 0)


def test_a_slow_request_gives_back_what_waits_behind_it_and_leaves_its_place_to_others() -> None:
    clock = Clock()
    concurrency = new_concurrency(clock)
    for number in range(6):
        concurrency.add(claimed(number))
    concurrency.acquire(100)
    assert (concurrency.young(), concurrency.give_back()) == (4, [])
    clock.seconds += 1.1
    assert (concurrency.young(), concurrency.room()) == (0, {"s1": 0})
    assert [item.id for item in concurrency.give_back()] == ["s1-4", "s1-5"]


def test_nothing_waits_for_its_turn_until_its_lease_is_nearly_over() -> None:
    clock = Clock()
    concurrency = new_concurrency(clock)
    concurrency.add(claimed(1))
    assert (concurrency.acquire(0), concurrency.give_back()) == ([], [])
    clock.seconds += 2.1
    assert [item.id for item in concurrency.give_back()] == ["s1-1"]


def test_a_request_that_was_broken_off_leaves_nothing_behind() -> None:
    concurrency = new_concurrency()
    concurrency.add(claimed(1))
    (item,) = concurrency.acquire(1)
    concurrency.lost(item)
    assert (concurrency.flying, concurrency.young(), concurrency.room()) == (0, 0, {})


@pytest.mark.parametrize("answer_then", [None, (500, {})])
async def test_what_waits_for_an_endpoint_that_stops_answering_is_back_in_the_outbox(
    fresh_database_urls: Any, receiver: Receiver, answer_then: Any
) -> None:
    receiver.answer = lambda request: (200, {}) if len(receiver.requests) < 150 else answer_then
    limits = DeliveryLimits(slow_after_seconds=0.3)
    async with open_post_office(fresh_database_urls.app, timeout_seconds=20, limits=limits) as office:
        subscription = await office.subscribe(receiver.url())
        await office.dispatch(400)
        await office.delivery_sender.run()
        rows = await office.deliveries(subscription)
        held = [row for row in rows if row.leased_until is not None and row.leased_until > utc_now()]
        assert len(held) <= 4
        # Nothing was lost on the way, and few were tried after the endpoint had stopped.
        assert sum(row.status == "delivered" for row in rows) == 150
        tried = sum(row.status == "retrying" for row in rows) + len(held)
        assert tried < 30
        assert sum(row.status == "pending" and row not in held for row in rows) == 250 - tried


async def test_a_process_that_ends_gives_back_what_waits(fresh_database_urls: Any, receiver: Receiver) -> None:
    async with open_post_office(fresh_database_urls.app) as office:
        await office.subscribe(receiver.url())
        await office.dispatch(200)
        task = asyncio.create_task(office.delivery_sender.run())
        await receiver.until(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await office.delivery_sender.close()
        leased = [row for row in await office.deliveries() if row.leased_until is not None]
        # Only those whose requests were broken off: their lease keeps them.
        assert len(leased) <= 4
        await office.expire_leases()
        await office.send()
        assert await office.statuses() == {"delivered": 200}


async def test_a_process_that_ends_while_it_claims_gives_back_what_it_claimed(
    fresh_database_urls: Any, receiver: Receiver
) -> None:
    async with open_post_office(fresh_database_urls.app) as office:
        await office.subscribe(receiver.url())
        await office.dispatch(50)
        task = asyncio.create_task(office.delivery_sender.run())
        for _ in range(1000):
            if any(one.get_name() == "claim-deliveries" for one in asyncio.all_tasks()):
                break
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await office.delivery_sender.close()
        rows = await office.deliveries()
        assert sum(row.leased_until is not None for row in rows) <= 4
        assert len(rows) == 50
