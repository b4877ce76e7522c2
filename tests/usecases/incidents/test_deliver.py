"""Operators are told: what they want, at least once, over real HTTP and through the vendors' own stand-ins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from tests.support.receivers import Receiver, open_receiver
from tests.support.routing import configure, eventually, open_admission_controller, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.access.principal import Principal
from wedsync.domain.health.messages import WatchStart
from wedsync.domain.health.status import Status
from wedsync.domain.incidents import notice as news
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import new_pool
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.access import queries as access
from wedsync.store.incidents import notifications as store
from wedsync.usecases.health.watch import Watch
from wedsync.usecases.incidents import channels
from wedsync.usecases.incidents.channels import ChannelView, ChannelWithSecret, WantedChannel
from wedsync.usecases.incidents.deliver import Notifier
from wedsync.usecases.routing.operate import Operator
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]

PRINCIPAL = Principal(organization_id="studio", key_id="k1")


@dataclass
class NotifierStage:
    """A process with a notifier."""

    controller: AdmissionController
    gateway: VendorGateway
    notifier: Notifier
    keyring: Keyring

    async def channel(self, kind: str, target: str = "", **said: Any) -> ChannelWithSecret:
        wanted = WantedChannel.model_validate({"name": "on call", "kind": kind, "target": target, **said})
        async with self.controller.breakers.db.tenant("studio") as conn:
            return await channels.create(conn, PRINCIPAL, wanted, self.keyring, new_id(), utc_now())

    async def announce(self, *notices: news.Notice) -> list[int]:
        async with self.controller.breakers.db.system() as conn:
            return [await store.announce(conn, notice) for notice in notices]

    async def shown(self, channel_id: str) -> ChannelView:
        async with self.controller.breakers.db.tenant("studio") as conn:
            return await channels.show(conn, channel_id)

    @property
    def operator(self) -> Operator:
        return Operator(self.controller.breakers, PRINCIPAL, utc_now())


@pytest.fixture
async def stage(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> AsyncIterator[NotifierStage]:
    settings = stage_settings(fresh_database_urls.app, stage_sandbox, tmp_path)
    keyring = Keyring.parse(settings.codec_keys.get_secret_value())
    pool = new_pool()
    async with open_admission_controller(fresh_database_urls.app) as controller:
        async with controller.breakers.db.system() as conn:
            await access.add_organization(conn, "studio", "Studio", utc_now())
        gateway = VendorGateway(settings, load_registry(), pool, controller)
        notifier = Notifier(gateway, controller, SsrfSafeHttp(SsrfPolicy(allow_loopback=True)), keyring)
        yield NotifierStage(controller, gateway, notifier, keyring)
        await notifier.close()
    await pool.aclose()
    await stage_sandbox.clear_faults()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as opened:
        yield opened


def down(service: str = "stripe", at: timedelta = timedelta()) -> news.Notice:
    return news.health_changed(service, "healthy", "down", "no answer", utc_now() + at)


async def test_a_webhook_is_signed_as_the_standard_says(stage: NotifierStage, receiver: Receiver) -> None:
    channel = await stage.channel("webhook", receiver.url())
    assert await stage.announce(down()) == [1]
    assert await stage.notifier.deliver(utc_now()) == 1
    (request,) = receiver.requests
    assert channel.secret is not None
    said = Webhook(channel.secret).verify(request.body, request.headers)
    assert (said["type"], said["severity"], said["service"]) == ("health.changed", "critical", "stripe")
    assert said["id"] == request.headers["webhook-id"]
    assert (await stage.shown(channel.id)).told_at is not None
    assert await stage.notifier.deliver(utc_now() + timedelta(hours=1)) == 0


async def test_what_fails_is_tried_again_with_the_same_id_until_it_is_told(
    stage: NotifierStage, receiver: Receiver
) -> None:
    answers: Any = iter([(500, {}), (302, {}), (204, {})])
    receiver.answer = lambda _: next(answers)
    channel = await stage.channel("webhook", receiver.url())
    await stage.announce(down())
    now = utc_now()
    assert await stage.notifier.deliver(now) == 1
    assert (await stage.shown(channel.id)).error == "answered 500"
    assert await stage.notifier.deliver(now + timedelta(seconds=4)) == 0
    assert await stage.notifier.deliver(now + timedelta(seconds=6)) == 1
    assert await stage.notifier.deliver(now + timedelta(seconds=17)) == 1
    found = await stage.shown(channel.id)
    assert (found.waiting, found.error) == (0, None)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1


async def test_of_several_processes_one_tells_and_another_when_it_is_gone(stage: NotifierStage) -> None:
    await stage.channel("log")
    await stage.announce(down())
    now = utc_now()
    db = stage.controller.breakers.db

    async def claim(at: timedelta) -> int:
        async with db.system() as conn:
            return len(await store.claim(conn, now + at, timedelta(seconds=60), 10))

    assert sum(await asyncio.gather(*(claim(timedelta()) for _ in range(3)))) == 1
    assert await claim(timedelta(seconds=59)) == 0
    assert await claim(timedelta(seconds=61)) == 1


async def test_a_channel_is_told_of_what_it_wants_only(stage: NotifierStage) -> None:
    await stage.channel("log", events=("health.changed",), least_severity="critical")
    await stage.channel("log", events=("failover.started", "failover.restored"))
    healthy = news.health_changed("stripe", "down", "healthy", "", utc_now())
    started = news.failover_started("stripe", "default", "paypal", "asked", "active", 1, utc_now())
    quota = news.quota_exhausted("stripe", utc_now(), utc_now())
    assert await stage.announce(down(), healthy, started, quota) == [1, 0, 1, 0]


async def test_the_same_news_is_told_once_within_the_window(stage: NotifierStage) -> None:
    await stage.channel("log", dedup_seconds=60)
    said = await stage.announce(down(), down(at=timedelta(seconds=30)), down("paypal"), down(at=timedelta(seconds=61)))
    assert said == [1, 0, 1, 1]
    found = await rows(stage.controller, "SELECT repeats FROM notifications ORDER BY created_at")
    assert sorted(row.repeats for row in found) == [0, 0, 1]


async def test_what_was_told_last_of_a_service_is_how_it_stands(stage: NotifierStage) -> None:
    await stage.channel("log")
    await stage.channel("sms", "+390318125551", least_severity="critical")
    now = utc_now()
    statuses: list[Status] = ["healthy", "down", "healthy", "down", "down"]
    told = [
        await stage.announce(news.health_changed("stripe", was, now_is, "", now + timedelta(seconds=10 * n)))
        for n, (was, now_is) in enumerate(pairwise(statuses))
    ]
    # Who wants to hear of nothing but outages was told of this one, and of no end of it.
    assert told == [[2], [1], [1], [0]]
    found = await rows(
        stage.controller,
        "SELECT DISTINCT ON (channel_id) notice #>> '{detail,now_is}' AS said FROM notifications "
        "ORDER BY channel_id, created_at DESC",
    )
    assert [row.said for row in found] == ["down", "down"]


async def test_email_and_text_messages_go_through_the_products_own_vendors(
    stage: NotifierStage, stage_sandbox: EmbeddedSandbox
) -> None:
    mail = await stage.channel("email", "oncall@villa.example")
    sms = await stage.channel("sms", "+390318125551")
    await stage.announce(down())
    assert await stage.notifier.deliver(utc_now()) == 2
    for channel in (mail, sms):
        found = await stage.shown(channel.id)
        assert (found.waiting, found.error) == (0, None)
    await stage.controller.call_recorder.flush()
    calls = await rows(stage.controller, "SELECT service, operation, outcome FROM vendor_calls")
    assert {call.outcome for call in calls} == {"ok"}
    senders = {name for name, found in load_registry().manifests.items() if {"email", "sms"} & set(found.capabilities)}
    assert {call.service for call in calls} <= senders
    assert len(calls) == 2


async def test_another_vendor_is_tried_when_one_does_not_send(
    stage: NotifierStage, stage_sandbox: EmbeddedSandbox
) -> None:
    (first, second) = stage.notifier._vendors("email")
    await stage_sandbox.faults(first, mode="down")
    channel = await stage.channel("email", "oncall@villa.example")
    await stage.announce(down())
    now = utc_now()
    await stage.notifier.deliver(now)
    assert (await stage.shown(channel.id)).error is not None
    await stage.notifier.deliver(now + timedelta(seconds=6))
    assert (await stage.shown(channel.id)).error is None
    assert {first, second} == {"resend", "sendgrid"}


async def test_a_url_of_this_networks_own_is_not_asked(stage: NotifierStage) -> None:
    recovery = Notifier(stage.gateway, stage.controller, SsrfSafeHttp(SsrfPolicy(allow_loopback=False)), stage.keyring)
    channel = await stage.channel("webhook", "https://127.0.0.1:9/hook")
    await stage.announce(down())
    await recovery.deliver(utc_now())
    await recovery.close()
    assert "guard" in str((await stage.shown(channel.id)).error)


async def test_a_failover_is_told_of_in_its_own_transaction(stage: NotifierStage) -> None:
    await stage.channel("log")
    await configure(stage.controller)
    await stage.operator.failover("stripe", "default", "trigger")
    await stage.operator.failover("stripe", "default", "hold")
    await stage.operator.failover("stripe", "default", "hold")
    await stage.operator.force("stripe", "default", "closed")
    found = await rows(
        stage.controller, "SELECT notice ->> 'kind' AS kind FROM notifications ORDER BY created_at, kind"
    )
    assert [row.kind for row in found] == ["failover.started", "failover.held", "failover.restored"]


async def test_a_quota_that_is_used_up_for_long_is_told_of_once(stage: NotifierStage) -> None:
    await stage.channel("log")
    now = utc_now()
    for until in (timedelta(seconds=5), timedelta(hours=1), timedelta(hours=1)):
        stage.controller.breakers.quota_exhausted("stripe", now + until, now)

    async def told() -> list[Any]:
        return await rows(stage.controller, "SELECT notice ->> 'kind' AS kind FROM notifications")

    assert [row.kind for row in await eventually(told)] == ["quota.exhausted"]


async def test_the_watch_on_health_tells_by_itself(
    stage: NotifierStage, receiver: Receiver, stage_sandbox: EmbeddedSandbox
) -> None:
    await stage.channel("webhook", receiver.url(), events=("health.changed",))
    await stage_sandbox.faults("stripe", mode="down")
    stop = asyncio.Event()
    watch = Watch(stage.gateway, stage.controller, stage.notifier)
    running = asyncio.create_task(watch.run(WatchStart(seconds=60, tick_seconds=0.05), stop))
    (request, *_) = await receiver.until(1)
    stop.set()
    await running
    assert json.loads(request.body)["detail"]["now_is"] == "degraded"


async def test_a_message_that_can_not_be_told_keeps_no_other_from_being_told(
    stage: NotifierStage, receiver: Receiver
) -> None:
    await stage.channel("webhook", receiver.url(), dedup_seconds=0)
    await stage.announce(down(), down())
    async with stage.controller.breakers.db.system() as conn:
        spoil = "UPDATE notifications SET notice = '{}' WHERE id = (SELECT min(id) FROM notifications)"
        await conn.execute(text(spoil))
    assert await stage.notifier.deliver(utc_now()) == 2
    found = await rows(stage.controller, "SELECT error, ended_at FROM notifications ORDER BY id")
    assert [row.error is None for row in found] == [False, True]
    assert len(receiver.requests) == 1


async def test_an_ending_watch_does_not_wait_for_a_receiver_that_is_silent(
    stage: NotifierStage, receiver: Receiver
) -> None:
    receiver.answer = lambda _: None
    await stage.channel("webhook", receiver.url(), dedup_seconds=0)
    await stage.announce(down())
    stop = asyncio.Event()
    watch = Watch(stage.gateway, stage.controller, stage.notifier)
    running = asyncio.create_task(watch.run(WatchStart(seconds=60, tick_seconds=0.05), stop))
    await receiver.until(1)
    stop.set()
    async with asyncio.timeout(10):
        await running
    (row,) = await rows(stage.controller, "SELECT ended_at, attempts FROM notifications")
    assert (row.ended_at, row.attempts) == (None, 1)


async def test_messages_that_are_over_are_forgotten_and_those_that_wait_are_not(stage: NotifierStage) -> None:
    await stage.channel("log", dedup_seconds=0)
    await stage.announce(down())
    await stage.notifier.deliver(utc_now())
    await stage.announce(down())
    async with stage.controller.breakers.db.system() as conn:
        assert await store.forget(conn, utc_now() + timedelta(hours=1)) == 1


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("log", "x"),
        ("email", "nobody"),
        ("sms", "0123"),
        ("sms", "+390318125551\n"),
        ("webhook", "ftp://x"),
        ("webhook", ""),
        ("pigeon", ""),
    ],
)
def test_a_target_that_does_not_fit_is_refused(kind: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"target|log"):
        WantedChannel.model_validate({"name": "x", "kind": kind, "target": target})
