"""What reports say of services: now, over a range, and of the weddings that are near."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import configure, eventually, fail, open_admission_controller, rows
from wedsync.domain.health.status import Health, ProbeResult, next_health
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.health import queries as health
from wedsync.store.quotas import queries as quotas
from wedsync.usecases.health.read import ApiHealth, HealthHistory, HealthReport, RateLimit, read_health, read_history
from wedsync.usecases.health.watch import POLICY

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(str(fresh_database_urls.app)) as opened:
        yield opened
        async with opened.breakers.db.system() as conn:
            await conn.execute(text("DELETE FROM services"))


async def told(controller: AdmissionController, *changes: tuple[timedelta, str], source: str = "probe") -> None:
    """Changes of stripe's status, each so long before now."""
    statement = text(
        "INSERT INTO health_changes (service, source, from_status, status, at, error_rate, response_ms) "
        "VALUES ('stripe', :source, :was, :status, :at, 0, 0)"
    )
    was = None
    async with controller.breakers.db.system() as conn:
        for ago, status in changes:
            await conn.execute(statement, {"source": source, "was": was, "status": status, "at": NOW - ago})
            was = status


async def history(controller: AdmissionController, since: timedelta, until: timedelta = timedelta()) -> HealthHistory:
    db = controller.breakers.db
    return await read_history(db, "org", "stripe", NOW - since, NOW - until, now=NOW)


async def report(controller: AdmissionController, now: datetime = NOW) -> HealthReport:
    return await read_health(controller.breakers.db, controller.routing_table, now, None)


async def stripe(controller: AdmissionController, now: datetime = NOW) -> ApiHealth:
    return next(api for api in (await report(controller, now)).apis if api.service == "stripe")


async def test_a_day_long_ago_knows_nothing_of_an_outage_now(controller: AdmissionController) -> None:
    await told(controller, (90 * DAY, "healthy"), (HOUR, "down"))
    month_ago = await history(controller, 31 * DAY, 30 * DAY)
    assert (month_ago.uptime, month_ago.down_seconds, month_ago.data) == (1.0, 0.0, ())
    assert (await history(controller, DAY)).down_seconds == 3600


async def test_a_range_amid_an_outage_is_down_although_nothing_changed_in_it(controller: AdmissionController) -> None:
    await told(controller, (90 * DAY, "healthy"), (10 * DAY, "down"), (2 * DAY, "healthy"))
    amid = await history(controller, 6 * DAY, 5 * DAY)
    assert (amid.uptime, amid.down_seconds, amid.changes) == (0.0, 86_400, 0)
    assert amid.error_budget_seconds == pytest.approx(86.4 - 86_400)
    assert (await history(controller, 11 * DAY, 9 * DAY)).down_seconds == 86_400


async def test_however_many_changes_a_range_has_all_of_them_count(controller: AdmissionController) -> None:
    async with controller.breakers.db.system() as conn:
        await conn.execute(
            text(
                "INSERT INTO health_changes (service, from_status, status, at, error_rate, response_ms) "
                "SELECT 'stripe', 'healthy', CASE WHEN n % 2 = 0 THEN 'down' ELSE 'healthy' END, "
                "CAST(:begin AS timestamptz) + n * interval '10 seconds', 0, 0 FROM generate_series(0, 1399) AS n"
            ),
            {"begin": NOW - DAY},
        )
    found = await history(controller, 2 * DAY)
    assert (found.down_seconds, found.changes, len(found.data)) == (7000, 1400, 500)


async def test_what_is_to_come_is_neither_up_nor_down(controller: AdmissionController) -> None:
    await told(controller, (2 * DAY, "healthy"), (HOUR, "down"))
    found = await history(controller, 2 * HOUR, -DAY)
    assert (found.until, found.uptime, found.down_seconds) == (NOW, 0.5, 3600)


async def test_circuits_count_as_probes_do_and_the_same_moment_once(controller: AdmissionController) -> None:
    await told(controller, (90 * DAY, "healthy"), (3 * HOUR, "down"), (HOUR, "healthy"))
    await told(controller, (4 * HOUR, "down"), (2 * HOUR, "degraded"), (HOUR, "healthy"), source="circuit")
    found = await history(controller, 10 * HOUR)
    assert (found.down_seconds, found.uptime) == (3 * 3600, 0.7)
    assert [(change.source, change.status) for change in found.data][-1] == ("circuit", "down")


async def test_a_vendor_whose_health_path_answers_while_its_circuit_is_open_is_down(
    controller: AdmissionController,
) -> None:
    await configure(controller, circuit={"open_seconds": 0.2})
    now = utc_now()
    async with controller.breakers.db.system() as conn:
        await health.ensure(conn, ["stripe"], now)
        was = Health(since=now)
        await health.write(conn, "stripe", was, next_health(was, ProbeResult(ok=True), now, POLICY), now)
    await fail(controller)
    await controller.call_recorder.flush()
    (opened,) = await rows(controller, "SELECT * FROM health_changes WHERE source = 'circuit'")
    assert (opened.from_status, opened.status, opened.error_rate) == ("healthy", "down", 1.0)
    later = opened.at + HOUR
    assert (await stripe(controller, later)).uptime_24h == pytest.approx(100 * 23 / 24, abs=0.01)
    policy = controller.routing_table.policy("stripe")
    for _ in range(policy.probes):
        circuit = controller.routing_table.circuit("stripe", "default")
        await controller.breakers.apply(
            "stripe", "default", lambda c, _, at=circuit: rules.probed(c, "ok", at.round, later, policy), later
        )
    found = await rows(controller, "SELECT status FROM health_changes WHERE source = 'circuit' ORDER BY id")
    assert [row.status for row in found] == ["down", "degraded"]
    assert (await stripe(controller, later + HOUR)).uptime_24h == pytest.approx(100 * 23 / 24, abs=0.01)


async def test_a_service_is_down_when_none_of_its_endpoints_takes_calls(controller: AdmissionController) -> None:
    await configure(controller, endpoints=(Endpoint(name="a"), Endpoint(name="b")))
    now, policy = utc_now(), controller.routing_table.policy("stripe")
    for name in ("a", "b"):
        await controller.breakers.apply("stripe", name, lambda c, _: rules.opened(c, now, policy, "failure_rate"), now)
    found = await rows(controller, "SELECT status FROM health_changes WHERE service = 'stripe' ORDER BY id")
    assert [row.status for row in found] == ["degraded", "down"]


async def test_the_report_says_what_the_vendor_still_takes(controller: AdmissionController) -> None:
    assert (await stripe(controller)).rate_limit is None
    now = utc_now()
    async with controller.breakers.db.system() as conn:
        limits = (WindowLimit(window="hour", limit=1000), WindowLimit(window="day", limit=40))
        await quotas.put_policy(conn, ("stripe", "default"), QuotaPolicy(windows=limits), "key:test", now)
    await controller.routing_table.load()
    limit = (await stripe(controller, now)).rate_limit
    assert limit is not None
    assert (limit.window, limit.limit, limit.remaining) == ("day", 40, 40)
    assert limit.resets_at is not None
    assert now < limit.resets_at <= now + DAY
    assert limit.blocked_until is None


async def test_the_report_says_until_when_a_vendor_takes_nothing(controller: AdmissionController) -> None:
    now = utc_now()
    controller.rate_limiter.block("stripe", "default", 120)

    async def blocked() -> RateLimit | None:
        return (await stripe(controller, now)).rate_limit

    limit = await eventually(blocked)
    assert now + timedelta(seconds=60) < limit.blocked_until <= utc_now() + timedelta(seconds=120)
    assert (await stripe(controller, now + HOUR)).rate_limit is None


async def test_only_weddings_of_the_next_two_days_are_counted_as_such(controller: AdmissionController) -> None:
    db = controller.breakers.db
    async with db.system() as conn:
        await conn.execute(
            text("INSERT INTO organizations (id, name, created_at) VALUES ('org', 'Studio', :now)"), {"now": NOW}
        )
        for number in range(40):
            wedding_id = new_id()
            at = NOW + (DAY if number == 0 else timedelta(days=30 + number))
            await conn.execute(
                text(
                    "INSERT INTO weddings (id, organization_id, reference, status, phase, mode, ceremony_local, zone, "
                    "ceremony_at, plan_version, created_at, updated_at) VALUES (:id, 'org', :id, 'active', "
                    "'preparation', 'normal', '2027-06-19T16:00', 'Europe/Rome', :at, 1, :now, :now)"
                ),
                {"id": wedding_id, "at": at, "now": NOW},
            )
            await conn.execute(
                text(
                    "INSERT INTO plans (wedding_id, organization_id, version, body, created_at) "
                    'VALUES (:id, \'org\', 1, \'{"services": [{"vendor": "stripe"}]}\', :now)'
                ),
                {"id": wedding_id, "now": NOW},
            )
    found = await report(controller)
    assert next(api.dependent_weddings for api in found.apis if api.service == "stripe") == 40
    assert found.wedding_day_readiness.weddings_within_48h == 1
    own = await read_health(db, controller.routing_table, NOW, "org")
    others = await read_health(db, controller.routing_table, NOW, "others")
    assert (own.wedding_day_readiness.weddings_within_48h, others.wedding_day_readiness.weddings_within_48h) == (1, 0)
    assert others.apis[0].rate_limit is None
