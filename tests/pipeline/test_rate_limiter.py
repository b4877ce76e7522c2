"""What the fleet takes of a vendor's quota, on real Postgres."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.peers import peers
from tests.support.routing import a_call, eventually, open_admission_controller, rows
from wedsync.domain.errors import ThrottledUntil, VendorThrottled
from wedsync.domain.quotas import headers
from wedsync.domain.quotas import quota as rules
from wedsync.domain.quotas.quota import QuotaPolicy, Reservation, Throttle, WindowLimit
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import ORDINARY, Situation
from wedsync.store.db.session import Database
from wedsync.store.quotas import queries as quotas
from wedsync.vendors.registry import load_registry

KEY = ("stripe", "default")
WEDDING_DAY = Situation(is_wedding_day=True)


@pytest.fixture
def url(fresh_database_urls: Any) -> str:
    return str(fresh_database_urls.app)


@pytest.fixture
async def controller(url: str) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(url) as opened:
        yield opened


async def limit(controller: AdmissionController, *windows: WindowLimit, key: tuple[str, str] = KEY) -> None:
    async with controller.breakers.db.system() as conn:
        await quotas.put_policy(conn, key, QuotaPolicy(windows=windows), "key:test", utc_now())
    await controller.routing_table.load()


def daily(calls: int) -> WindowLimit:
    """A window that hardly ever ends amid a test."""
    return WindowLimit(window="day", limit=calls)


async def send(controller: AdmissionController, situation: Situation = ORDINARY, **call: Any) -> int | None:
    said = a_call(**call)
    admission = await controller.admit(said, situation)
    await controller.complete(admission, said, "send", None, 0.01)
    return admission.quota_left


async def until_refused(
    controller: AdmissionController, situation: Situation = ORDINARY, **call: Any
) -> tuple[int, ThrottledUntil]:
    for made in range(10_000):
        try:
            await send(controller, situation, **call)
        except ThrottledUntil as error:
            return made, error
    raise AssertionError("never refused")


def window_end(seconds: int) -> float:
    return (time.time() // seconds + 1) * seconds


def is_late() -> bool:
    return time.time() % 86_400 >= 69_120


async def test_what_nobody_limits_asks_nobody(controller: AdmissionController) -> None:
    assert await send(controller) is None
    assert controller.rate_limiter.requests == 0


async def test_a_full_quota_says_when_to_come_again_and_wedding_days_have_the_last(
    controller: AdmissionController,
) -> None:
    await limit(controller, daily(40))
    made, refused = await until_refused(controller)
    # Towards its end a day is everybody's.
    assert made == (40 if is_late() else 37)
    assert refused.until.timestamp() == window_end(86_400) - (0 if is_late() else 17_280)
    made, refused = await until_refused(controller, WEDDING_DAY)
    assert made == (0 if is_late() else 3)
    assert refused.until.timestamp() == window_end(86_400)
    assert "its quota of this day is used; nothing was sent" in refused.detail


async def test_blocks_are_taken_so_that_postgres_is_not_asked_for_each_call(controller: AdmissionController) -> None:
    await limit(controller, daily(1_000_000))
    for _ in range(400):
        await send(controller)
    assert controller.rate_limiter.requests < 60


async def test_each_call_s_record_says_what_was_left(controller: AdmissionController) -> None:
    await limit(controller, daily(1000))
    assert await send(controller) == 999
    await controller.call_recorder.flush()
    assert [row.quota_left for row in await rows(controller, "SELECT quota_left FROM vendor_calls")] == [999]


async def test_accounts_have_quotas_of_their_own(controller: AdmissionController) -> None:
    await limit(controller, daily(10), key=("stripe", "*"))
    assert (await until_refused(controller))[0] == 10
    assert (await until_refused(controller, account="studio"))[0] == 10


async def test_what_one_process_takes_another_misses(controller: AdmissionController, url: str) -> None:
    await limit(controller, daily(100))
    async with open_admission_controller(url) as other:
        mine = [await send(controller) for _ in range(30)]
        theirs, _ = await until_refused(other)
    assert len(mine) + theirs == (100 if is_late() else 92)


async def test_after_a_429_nobody_in_the_fleet_calls_until_the_vendor_said(
    controller: AdmissionController, url: str
) -> None:
    async with open_admission_controller(url) as other:
        assert await send(other) is None
        said = a_call()
        admission = await controller.admit(said)
        error = VendorThrottled("slow down", vendor="stripe", status=429, retry_after_seconds=30)
        await controller.complete(admission, said, "send", error, 0.01)
        with pytest.raises(ThrottledUntil):
            await controller.admit(a_call(), WEDDING_DAY)

        async def is_told() -> bool:
            try:
                await send(other)
            except ThrottledUntil as refused:
                return timedelta(seconds=20) < refused.until - utc_now() <= timedelta(seconds=30)
            return False

        began = time.monotonic()
        await eventually(is_told)
        assert time.monotonic() - began < 1


async def test_the_vendor_s_own_count_is_believed_when_it_is_stricter(controller: AdmissionController) -> None:
    await limit(controller, daily(1000))
    await send(controller)
    controller.rate_limiter.learn(
        *KEY, {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "100", "x-ratelimit-reset": "900"}
    )

    async def is_corrected() -> bool:
        return (await send(controller) or 1000) < 100

    await eventually(is_corrected)


async def test_whatever_a_vendor_s_answer_says_of_its_limits_the_call_stands(
    controller: AdmissionController, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(controller, daily(1000))
    await send(controller)
    controller.rate_limiter.learn(*KEY, {"x-ratelimit-limit": "10", "x-ratelimit-reset": "999999999999"})

    def fail(*_: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(headers, "read", fail)
    controller.rate_limiter.learn(*KEY, {"x-ratelimit-limit": "10"})


async def test_a_hand_on_the_tap_is_felt_everywhere_at_once_but_not_on_a_wedding_day(
    controller: AdmissionController, url: str
) -> None:
    await limit(controller, daily(1000))
    async with open_admission_controller(url) as other:
        await send(other)
        await controller.rate_limiter.change(KEY, lambda q: q.model_copy(update={"throttle": Throttle(percent=0)}))

        async def is_closed() -> bool:
            try:
                await send(other)
            except ThrottledUntil:
                return True
            return False

        await eventually(is_closed, 2)
        await send(other, WEDDING_DAY)


async def test_a_throttled_call_is_told_when_the_throttle_ends(controller: AdmissionController) -> None:
    await limit(controller, WindowLimit(window="second", limit=25))
    until = controller.rate_limiter.now() + timedelta(minutes=20)
    await controller.rate_limiter.change(
        KEY, lambda q: q.model_copy(update={"throttle": Throttle(percent=0, until=until)})
    )
    with pytest.raises(ThrottledUntil, match="as an operator has throttled it") as refused:
        await send(controller)
    assert refused.value.until == until


async def test_what_is_reserved_for_a_wedding_is_there_when_all_else_is_gone(controller: AdmissionController) -> None:
    await limit(controller, daily(100))
    now = utc_now()
    kept = Reservation(
        id="r", wedding_id="w1", calls=20, starts_at=now - timedelta(minutes=1), ends_at=now + timedelta(hours=2)
    )
    await controller.rate_limiter.change(KEY, lambda q: q.model_copy(update={"reservations": (kept,)}))
    made, _ = await until_refused(controller, wedding_id="w2")
    assert made <= 80
    made, _ = await until_refused(controller, wedding_id="w1")
    assert made == 20


async def test_wedding_day_calls_go_before_a_backlog(controller: AdmissionController) -> None:
    await limit(controller, WindowLimit(window="second", limit=50))
    order: list[str] = []

    async def one(what: str, situation: Situation) -> None:
        while True:
            try:
                await send(controller, situation)
            except ThrottledUntil as refused:
                await asyncio.sleep(refused.retry_after_seconds)
                continue
            order.append(what)
            return

    backlog = [asyncio.create_task(one("ordinary", Situation())) for _ in range(150)]
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await one("wedding day", WEDDING_DAY)
    assert time.monotonic() - began < 0.3
    await asyncio.gather(*backlog)
    assert order.index("wedding day") < 80


async def test_without_postgres_a_small_part_is_taken_all_the_same(url: str) -> None:
    async with open_admission_controller(url) as controller:
        await limit(controller, daily(200))
        assert await send(controller) == 199
        controller.rate_limiter._db = Database("postgresql://nobody@127.0.0.1:9/nothing", 1)
        controller.rate_limiter._accounts.clear()
        made, _ = await until_refused(controller)
        assert 0 < made <= 20


async def test_without_postgres_news_of_the_row_add_nothing_to_that_part(url: str) -> None:
    async with open_admission_controller(url) as controller:
        await limit(controller, daily(200))
        controller.rate_limiter._db = Database("postgresql://nobody@127.0.0.1:9/nothing", 1)
        for _ in range(10):
            await send(controller)
        (here,) = controller.rate_limiter._accounts.values()
        here.known = here.known.model_copy(update={"version": here.known.version + 1, "counters": ()})
        assert (await until_refused(controller))[0] <= 10


async def test_a_manifest_s_quotas_hold_where_they_are_asked_for(url: str) -> None:
    db = Database(url, 4)
    async with AdmissionController(db, load_registry().manifests, limited=["resend"]).open() as controller:
        manifest = load_registry().manifests["resend"]
        assert controller.routing_table.quota_policy("resend", "default") == rules.policy_of(manifest.quotas)
        assert controller.routing_table.quota_policy("stripe", "default").windows == ()
    await db.close()


async def test_a_row_that_somebody_holds_holds_up_nobody(controller: AdmissionController) -> None:
    await limit(controller, daily(1000))
    await send(controller)
    async with controller.breakers.db.system() as conn:
        await conn.execute(text("SELECT 1 FROM quotas WHERE service = 'stripe' FOR UPDATE"))
        began = time.monotonic()
        results = await asyncio.gather(*(send(controller, WEDDING_DAY if n % 2 else ORDINARY) for n in range(20)))
        assert time.monotonic() - began < 2.5
        assert len(results) == 20
        assert (await until_refused(controller))[0] <= 80
    (here,) = controller.rate_limiter._accounts.values()
    here.stalled_until -= timedelta(minutes=1)
    requests = controller.rate_limiter.requests
    await send(controller)
    assert controller.rate_limiter.requests > requests


@asynccontextmanager
async def counting_vendor() -> AsyncIterator[tuple[str, list[float]]]:
    """A vendor that answers at once and notes when each call came."""
    came: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                came.append(time.time())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", came
    finally:
        server.close()


async def fleet(url: str, vendor: str, processes: int, seconds: float, say: Callable[[], Awaitable[str]]) -> list[Any]:
    """So many processes at once; what each reported."""
    async with peers(processes, "tests.support.quota_process", url, vendor, seconds) as started:
        for peer in started:
            assert await peer.reported() == "ready"
        word = await say()
        for peer in started:
            peer.say(word)
        return [await peer.reported() for peer in started]


async def test_calls_that_come_while_a_block_is_asked_for_are_served_from_it(
    controller: AdmissionController, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(controller, WindowLimit(window="day", limit=1_000_000))
    write, came = quotas.swap, [asyncio.create_task(controller.rate_limiter.acquire(*KEY, 3))]

    async def while_another_comes(*given: Any, **named: Any) -> Any:
        for _ in range(3):
            if len(came) < 150:
                came.append(asyncio.create_task(controller.rate_limiter.acquire(*KEY, 3)))
                await asyncio.sleep(0)
        return await write(*given, **named)

    monkeypatch.setattr(quotas, "swap", while_another_comes)
    while len(came) < 10:
        await asyncio.sleep(0.001)
        if all(task.done() for task in came):
            came.append(asyncio.create_task(controller.rate_limiter.acquire(*KEY, 3)))
    await asyncio.gather(*came)
    assert controller.rate_limiter.requests <= 4


async def test_ten_processes_never_pass_a_limit_and_use_it(controller: AdmissionController, url: str) -> None:
    # Few, so that the machine's own speed has little part in it.
    calls, seconds = 20, 6
    await limit(controller, WindowLimit(window="second", limit=calls))

    async def say() -> str:
        # From the beginning of a whole second.
        start = int(time.time()) + 1
        await asyncio.sleep(start - time.time())
        return str(start)

    async with counting_vendor() as (vendor, came):
        reports = await fleet(url, vendor, 10, seconds, say)
    made = [moment for report in reports for moment in report["made"]]
    assert len(made) == len(came)
    by_second = Counter(int(moment) for moment in made)
    # By what each had leave for: on a busy machine a call may be held up on its way.
    assert max(by_second.values()) <= calls
    assert sum(by_second.values()) >= 0.3 * calls * seconds
