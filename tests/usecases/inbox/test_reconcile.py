"""What a vendor's webhooks left out is found by its own list, recorded once, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import insert, select
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.inbox import WebhookActivities
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import VendorError
from wedsync.domain.inbox.messages import ReconcileStart, drain_workflow_id
from wedsync.domain.inbox.source import SourceAccount, SourceConfig
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.task_queues import BULK, WORKFLOWS_BULK
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import new_pool
from wedsync.kit.ids import new_id
from wedsync.kit.listing import Listed
from wedsync.kit.settings import Settings
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.sources import due_to_reconcile
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.store.inbox.tables import webhook_checks
from wedsync.usecases.inbox.drain import drain_batch
from wedsync.usecases.inbox.reconcile import Reconciler, reconcilable, reconcile_every
from wedsync.usecases.inbox.register import Clerk, register
from wedsync.usecases.inbox.sweep import sweep_inbox
from wedsync.vendors.registry import load_registry
from wedsync.vendors.stripe.reconcile import list_events
from workers.schedules import ensure_reconciled
from workflows.reconcile_source import ReconcileSource

ACCOUNT_SID = "AC" + "0" * 32


class Till:
    """A reconciler whose vendors stand in the sandbox."""

    def __init__(self, db: Database, sandbox: EmbeddedSandbox, http: httpx.AsyncClient, pool: Any) -> None:
        self.db = db
        self.http = http
        vendors = {
            "stripe": {"base_url": sandbox.vendor_url("stripe"), "api_key": "sk_test_1"},
            "paypal": {"base_url": sandbox.vendor_url("paypal"), "client_id": "c", "client_secret": "s"},
            "vsco": {"base_url": sandbox.vendor_url("vsco"), "api_key": "v"},
            "google_calendar": {"base_url": sandbox.vendor_url("google_calendar"), "api_key": "g"},
            "twilio": {"base_url": sandbox.vendor_url("twilio"), "api_key": "t", "account_id": ACCOUNT_SID},
        }
        settings = Settings.model_validate({"vendors": vendors})
        registry = load_registry()
        self.gateway = VendorGateway(settings, registry, pool)
        self.reconciler = Reconciler(db, settings, registry, self.gateway)

    async def pay(self, number: int) -> None:
        form = {
            "amount": "100",
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "automatic_payment_methods[enabled]": "true",
            "automatic_payment_methods[allow_redirects]": "never",
            "metadata[wedding_id]": f"w{number}",
        }
        base = self.gateway.account("stripe", "default").base_url
        path = f"{base}/v1/payment_intents"
        for tail, fields in (("", form), ("/confirm", {})):
            key = {"Authorization": "Bearer sk_test_1", "Idempotency-Key": f"k{number}{tail}"}
            answer = await self.http.post(path + tail, data=fields, headers=key)
            assert answer.status_code == 200, answer.text
            path += "/" + answer.json()["id"]

    async def pay_by_paypal(self, number: int) -> str:
        base = self.gateway.account("paypal", "default").base_url
        grant = {"grant_type": "client_credentials"}
        token = (await self.http.post(f"{base}/v1/oauth2/token", data=grant, auth=("c", "s"))).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        unit = {"amount": {"currency_code": "EUR", "value": "10.00"}, "custom_id": f"deposit {number}"}
        order = {"intent": "CAPTURE", "purchase_units": [unit]}
        made = (await self.http.post(f"{base}/v2/checkout/orders", json=order, headers=headers)).json()
        source = {"payment_source": {"token": {"id": "vault-1", "type": "BILLING_AGREEMENT"}}}
        path = f"{base}/v2/checkout/orders/{made['id']}/capture"
        taken = await self.http.post(path, json=source, headers=headers)
        assert taken.status_code == 201, taken.text
        return str(made["id"])

    async def book_by_vsco(self, number: int) -> str:
        base, headers = self.gateway.account("vsco", "default").base_url, {"X-API-KEY": "v"}
        job = await self.http.post(f"{base}/job", json={"name": f"Wedding {number}"}, headers=headers)
        assert job.status_code == 201, job.text
        session = {"jobId": job.json()["id"], "name": "Ceremony"}
        event = await self.http.post(f"{base}/event", json=session, headers=headers)
        assert event.status_code == 201, event.text
        return str(job.json()["id"])

    async def text_by_twilio(self, number: int) -> str:
        base = self.gateway.account("twilio", "default").base_url
        form = {"To": f"+4930123456{number:02}", "From": "+15005550006", "Body": "The venue is yours."}
        path = f"{base}/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"
        sent = await self.http.post(path, data=form, auth=(ACCOUNT_SID, "t"))
        assert sent.status_code == 201, sent.text
        return str(sent.json()["sid"])

    async def note_in_google(self, number: int, **private: str) -> str:
        base, headers = self.gateway.account("google_calendar", "default").base_url, {"Authorization": "Bearer g"}
        event = {
            "id": f"event{number}",
            "summary": f"Ceremony {number}",
            "start": {"dateTime": "2027-06-19T16:00:00+02:00"},
            "end": {"dateTime": "2027-06-19T18:00:00+02:00"},
            "extendedProperties": {"private": private},
        }
        made = await self.http.post(f"{base}/calendars/primary/events", json=event, headers=headers)
        assert made.status_code == 200, made.text
        return f"{base}/calendars/primary/events/event{number}"

    async def rows(self) -> list[Any]:
        async with self.db.system() as conn:
            return list((await conn.execute(select(inbox_table))).all())


@pytest.fixture
async def till(fresh_database_urls: Any) -> AsyncIterator[Till]:
    db, pool = Database(fresh_database_urls.app), new_pool()
    with EmbeddedSandbox(Settings()) as sandbox:
        async with httpx.AsyncClient() as http:
            yield Till(db, sandbox, http, pool)
        await sandbox.close()
    await pool.aclose()
    await db.close()


def test_events_of_those_that_list_them_can_be_listed() -> None:
    assert set(reconcilable(load_registry())) == {
        "google_calendar",
        "stripe",
        "paypal",
        "twilio",
        "vsco",
    }


async def test_payments_that_paypal_never_told_of_are_filled_in_page_by_page(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wedsync.vendors.paypal.reconcile._PAGE", 2)
    orders = {await till.pay_by_paypal(number) for number in range(5)}
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile("paypal", later)
    assert (found.checked, found.gaps) == (5, 5)
    rows = await till.rows()
    assert {row.event["type"] for row in rows} == {"payment.succeeded"}
    assert {row.event["object_id"] for row in rows} == orders
    assert (await till.reconciler.reconcile("paypal", later + timedelta(minutes=1))).gaps == 0


async def test_deliveries_that_twilio_never_told_of_are_filled_in_as_their_callbacks_would(till: Till) -> None:
    sids = {await till.text_by_twilio(number) for number in range(3)}
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile("twilio", later)
    assert (found.checked, found.gaps) == (3, 3)
    rows = await till.rows()
    assert {(row.event["type"], row.event["vendor_type"]) for row in rows} == {("message.delivered", "delivered")}
    assert {row.event["object_id"] for row in rows} == sids
    assert {row.event["event_id"] for row in rows} == {f"{sid}:delivered" for sid in sids}
    assert (await till.reconciler.reconcile("twilio", later + timedelta(minutes=1))).gaps == 0


async def test_bookings_that_vsco_never_told_of_are_filled_in(till: Till) -> None:
    jobs = {await till.book_by_vsco(number) for number in range(3)}
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile("vsco", later)
    assert (found.checked, found.gaps) == (3, 3)
    rows = await till.rows()
    assert {(row.event["type"], row.event["vendor_type"]) for row in rows} == {("booking.confirmed", "order.booked")}
    assert {row.event["object_id"] for row in rows} == jobs
    assert (await till.reconciler.reconcile("vsco", later + timedelta(minutes=1))).gaps == 0


async def test_changes_that_google_never_told_of_are_filled_in_but_not_what_we_wrote_ourselves(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wedsync.vendors.google_calendar.reconcile._PAGE", 2)
    monkeypatch.setattr("wedsync.vendors.google_calendar.reconcile._AT_ONCE", timedelta())
    ours = [await till.note_in_google(number, wedding_id=f"w{number}", step_id="event") for number in range(3)]
    theirs = await till.note_in_google(9)
    await asyncio.sleep(0.01)
    headers = {"Authorization": "Bearer g"}
    moved = {"location": "Terrace"}
    for url in (ours[0], theirs):
        assert (await till.http.patch(url, json=moved, headers=headers)).status_code == 200
    assert (await till.http.delete(ours[1], headers=headers)).status_code == 204
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile("google_calendar", later)
    # Its notifications name no change, so that none of them is a gap.
    assert (found.checked, found.gaps, found.missed) == (2, 0, 2)
    told = {(row.event["object_id"], row.event["vendor_type"], row.event["wedding_id"]) for row in await till.rows()}
    assert told == {("event0", "confirmed", "w0"), ("event1", "cancelled", "w1")}
    assert (await till.reconciler.reconcile("google_calendar", later + timedelta(minutes=1))).missed == 0


@pytest.mark.parametrize("source", ["google_calendar", "paypal", "twilio", "vsco"])
async def test_a_look_that_fails_is_repeated_from_where_the_last_one_ended(till: Till, source: str) -> None:
    root = till.gateway.account(source, "default").base_url.rpartition("/")[0]
    await till.http.put(f"{root}/_sandbox/faults/{source}", json={"mode": "down"})
    with pytest.raises(VendorError):
        await till.reconciler.reconcile(source, datetime.now(UTC))
    async with till.db.system() as conn:
        assert (await conn.execute(select(webhook_checks))).first() is None


async def test_events_that_never_came_are_filled_in_once_and_counted(till: Till) -> None:
    for number in range(3):
        await till.pay(number)
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile("stripe", later)
    assert (found.checked, found.gaps, found.lanes) == (3, 3, ("normal",))
    rows = await till.rows()
    assert {row.event["type"] for row in rows} == {"payment.succeeded"}
    assert {row.event["wedding_id"] for row in rows} == {"w0", "w1", "w2"}
    again = await till.reconciler.reconcile("stripe", later + timedelta(minutes=1))
    assert (again.gaps, len(await till.rows())) == (0, 3)
    async with till.db.system() as conn:
        checked = (await conn.execute(select(webhook_checks))).one()
    assert (checked.source, checked.gaps, checked.looked_at) == ("stripe", 3, 6)


async def test_what_came_by_itself_is_no_gap_and_what_is_young_is_left_alone(till: Till) -> None:
    await till.pay(1)
    assert (await till.reconciler.reconcile("stripe", datetime.now(UTC))).checked == 0
    later = datetime.now(UTC) + timedelta(minutes=5)
    listed = await till.gateway.query(
        "stripe", "list_events", lambda http, account: list_events(http, account, later - timedelta(days=1), later)
    )
    (body,) = listed.bodies
    (event,) = load_registry().webhook("stripe").parse(body, {})  # type: ignore[union-attr]
    assert json.loads(body)["id"] == event.event_id
    async with till.db.system() as conn:
        await inbox.record(conn, "stripe", [NewRow(event=event, priority=2, sealed_body=b"")], later)
    found = await till.reconciler.reconcile("stripe", later)
    assert (found.checked, found.gaps) == (1, 0)


@pytest.mark.parametrize("source", ["stripe", "paypal", "google_calendar"])
async def test_a_list_that_is_longer_than_one_reading_is_read_to_its_end(
    till: Till, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(f"wedsync.vendors.{source}.reconcile._PAGE", 1)
    monkeypatch.setattr("wedsync.kit.listing.MOST_PAGES", 2)
    monkeypatch.setattr("wedsync.vendors.google_calendar.reconcile.MOST_PAGES", 2)
    monkeypatch.setattr("wedsync.vendors.google_calendar.reconcile._AT_ONCE", timedelta(seconds=-1))
    for number in range(4):
        match source:
            case "stripe":
                await till.pay(number)
            case "paypal":
                await till.pay_by_paypal(number)
            case _:
                await till.note_in_google(number, wedding_id=f"w{number}", step_id="event")
                await asyncio.sleep(0.01)
    later = datetime.now(UTC) + timedelta(minutes=5)
    found = await till.reconciler.reconcile(source, later)
    assert found.gaps + found.missed >= 4
    again = await till.reconciler.reconcile(source, later + timedelta(minutes=1))
    assert again.gaps + again.missed == 0


async def test_a_look_that_is_broken_off_goes_on_from_where_it_was(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wedsync.vendors.stripe.reconcile._PAGE", 1)
    monkeypatch.setattr("wedsync.kit.listing.MOST_PAGES", 2)
    monkeypatch.setattr("wedsync.usecases.inbox.reconcile.RECONCILE_SECONDS", 0.0)
    for number in range(5):
        await till.pay(number)
    now = datetime.now(UTC) + timedelta(minutes=5)
    await till.reconciler.reconcile("stripe", now)
    async with till.db.system() as conn:
        (checked,) = (await conn.execute(select(webhook_checks.c.checked_until))).scalars()
    # The older half of three days, and not the end, which would leave what lies between to nobody.
    assert timedelta(days=1) < now - checked < timedelta(days=2)
    for _ in range(40):
        await till.reconciler.reconcile("stripe", now)
    assert len(await till.rows()) == 5


async def test_one_listed_object_that_nobody_can_read_keeps_no_other_out(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        await till.pay(number)
    later = datetime.now(UTC) + timedelta(minutes=5)

    async def list_worse(http: Any, account: Any, since: datetime, until: datetime) -> Listed:
        listed = await list_events(http, account, since, until)
        worse = (b"{}", b'{"id": 7, "type": []}', *listed.bodies, b"[1]", b"\xff")
        return listed.model_copy(update={"bodies": worse, "unreadable": 1})

    monkeypatch.setattr("wedsync.vendors.stripe.reconcile.list_events", list_worse)
    found = await till.reconciler.reconcile("stripe", later)
    assert (found.gaps, found.unreadable) == (2, 5)
    again = await till.reconciler.reconcile("stripe", later + timedelta(minutes=1))
    assert again.gaps == 0


async def test_a_vendor_that_is_down_leaves_the_look_for_the_next_time(till: Till) -> None:
    base = till.gateway.account("stripe", "default").base_url
    root = base.rpartition("/")[0]
    await till.http.put(f"{root}/_sandbox/faults/stripe", json={"mode": "down"})
    with pytest.raises(VendorError):
        await till.reconciler.reconcile("stripe", datetime.now(UTC))
    async with till.db.system() as conn:
        assert (await conn.execute(select(webhook_checks))).first() is None


async def test_a_vendor_without_a_key_or_a_list_is_left_alone(till: Till) -> None:
    for source in ("sendgrid", "vonage"):
        assert (await till.reconciler.reconcile(source, datetime.now(UTC))).checked == 0


async def test_the_schedules_workflow_looks_where_events_can_be_listed(till: Till, temporal_client: Client) -> None:
    async def provide() -> Client:
        return temporal_client

    worker_activities = WebhookActivities(till.db, provide, till.reconciler)
    async with (
        Worker(temporal_client, task_queue=WORKFLOWS_BULK, workflows=[ReconcileSource]),
        Worker(temporal_client, task_queue=BULK, activities=[worker_activities.reconcile]),
    ):
        answers = [
            await temporal_client.execute_workflow(
                ReconcileSource.run, ReconcileStart(source=source), id=f"reconcile-{source}", task_queue=WORKFLOWS_BULK
            )
            for source in ("stripe", "sendgrid")
        ]
    assert [answer.gaps for answer in answers] == [0, 0]
    async with till.db.system() as conn:
        checked = (await conn.execute(select(webhook_checks.c.source))).scalars().all()
    # SendGrid's events can't be listed, so they were not looked at.
    assert checked == ["stripe"]


def test_a_vendor_that_never_sends_again_is_looked_at_more_often() -> None:
    registry = load_registry()
    twilio, stripe = (reconcile_every(registry, Settings(), name) for name in ("twilio", "stripe"))
    assert twilio is not None
    assert stripe is not None
    assert twilio < stripe
    with pytest.raises(KeyError):
        reconcile_every(registry, Settings(), "sendgrid")


@pytest.mark.parametrize(("minutes", "every"), [(7, timedelta(minutes=7)), (0, None), (None, timedelta(minutes=30))])
def test_the_settings_say_how_often_a_vendors_list_is_looked_at(minutes: int | None, every: timedelta | None) -> None:
    settings = Settings.model_validate({"vendors": {"stripe": {"reconcile_every_minutes": minutes}}})
    assert reconcile_every(load_registry(), settings, "stripe") == every


async def test_a_push_has_the_list_looked_at_at_once_and_tells_nothing_itself(
    till: Till, monkeypatch: pytest.MonkeyPatch, temporal_client: Client
) -> None:
    monkeypatch.setattr("wedsync.vendors.google_calendar.reconcile._AT_ONCE", timedelta(seconds=-1))
    await till.note_in_google(1, wedding_id="w1", step_id="event")

    async def provide() -> Client:
        return temporal_client

    headers = {"x-goog-channel-id": "c", "x-goog-message-number": "7", "x-goog-resource-state": "exists"}
    (push,) = load_registry().webhook("google_calendar").parse(b"", headers)  # type: ignore[union-attr]
    now = datetime.now(UTC)
    async with till.db.system() as conn:
        await inbox.record(conn, "google_calendar", [NewRow(event=push, priority=3, sealed_body=b"")], now)
    worker_activities = WebhookActivities(till.db, provide, till.reconciler)
    flow = Worker(temporal_client, task_queue=WORKFLOWS_BULK, workflows=[ReconcileSource])
    async with flow, Worker(temporal_client, task_queue=BULK, activities=[worker_activities.reconcile]):
        await ensure_reconciled(temporal_client, "google_calendar", timedelta(days=1))
        try:
            await drain_batch(till.db, provide, "normal", 10, now)
            async with asyncio.timeout(30):
                while len(rows := await till.rows()) < 2:  # noqa: ASYNC110 - another process would tell, too
                    await asyncio.sleep(0.05)
        finally:
            await ensure_reconciled(temporal_client, "google_calendar", None)
            with contextlib.suppress(RPCError):
                # Nobody serves the drain that was told.
                await temporal_client.get_workflow_handle(drain_workflow_id("normal")).terminate()
    states = {row.event_id.partition(":")[0]: (row.state, row.wedding_id) for row in rows}
    assert states == {"c": ("processed", None), "event1": ("received", None)}


async def test_a_schedule_of_another_interval_is_changed_and_one_of_none_is_deleted(temporal_client: Client) -> None:
    for minutes in (30, 30, 7):
        await ensure_reconciled(temporal_client, "stripe", timedelta(minutes=minutes))
    handle = temporal_client.get_schedule_handle("reconcile-stripe")
    described = await handle.describe()
    assert [interval.every for interval in described.schedule.spec.intervals] == [timedelta(minutes=7)]
    for _ in range(2):
        await ensure_reconciled(temporal_client, "stripe", None)
    with pytest.raises(RPCError):
        await handle.describe()


async def registered(till: Till, **account: str) -> str:
    """A source of an organization's own Stripe account."""
    now, registry = datetime.now(UTC), load_registry()
    clerk = Clerk(
        principal=Principal(organization_id="o1", key_id="k"),
        now=now,
        api_url="https://wedsync.example",
        keyring=Keyring.parse(Settings().codec_keys.get_secret_value()),
        registry=registry,
    )
    config = SourceConfig(scheme="stripe", reconcile_every_minutes=15, priority="high")
    async with till.db.system() as conn:
        await conn.execute(insert(organizations).values(id="o1", name="Studio", created_at=now))
    async with till.db.tenant("o1") as conn:
        view = await register(
            conn, clerk, source_id=new_id(), name="ours", config=config, secret=None, account=SourceAccount(**account)
        )
    return view.id


async def due(till: Till, now: datetime) -> list[str]:
    async with till.db.system() as conn:
        return await due_to_reconcile(conn, now, 10)


async def test_a_registered_source_is_reconciled_by_its_own_account_when_it_is_due(till: Till) -> None:
    source = await registered(till, api_key="sk_test_theirs")
    await till.pay(1)
    now = datetime.now(UTC) + timedelta(minutes=5)
    assert await due(till, now) == [source]
    found = await till.reconciler.reconcile(source, now)
    assert (found.checked, found.gaps) == (1, 1)
    (row,) = await till.rows()
    assert (row.source, row.organization_id, row.priority) == (source, "o1", 2)
    root = till.gateway.account("stripe", "default").base_url.rpartition("/")[0]
    asked = (await till.http.get(f"{root}/_sandbox/requests/stripe")).json()
    lists = [one["headers"] for one in asked["requests"] if "/v1/events" in one["url"]]
    assert {headers["authorization"] for headers in lists} == {"Bearer sk_test_theirs"}
    assert await due(till, now + timedelta(minutes=14)) == []
    assert await due(till, now + timedelta(minutes=15)) == [source]


async def test_the_sweep_has_registered_sources_looked_at(till: Till, temporal_client: Client) -> None:
    source = await registered(till, api_key="sk_test_theirs")

    async def provide() -> Client:
        return temporal_client

    for _ in range(2):
        await sweep_inbox(till.db, provide, datetime.now(UTC))
    worker_activities = WebhookActivities(till.db, provide, till.reconciler)
    flow = Worker(temporal_client, task_queue=WORKFLOWS_BULK, workflows=[ReconcileSource])
    async with flow, Worker(temporal_client, task_queue=BULK, activities=[worker_activities.reconcile]):
        await temporal_client.get_workflow_handle(f"reconcile-{source}").result()
    assert await due(till, datetime.now(UTC)) == []


@pytest.mark.parametrize("account", [{}, {"api_key": "a b"}, {"api_key": "k\r\nX-A: b"}, {"client_id": "only"}])
def test_an_account_that_no_request_could_carry_is_refused(account: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SourceAccount.model_validate(account)


async def test_a_registered_sources_look_that_fails_is_not_repeated_before_it_is_due_again(till: Till) -> None:
    source = await registered(till, api_key="sk_test_theirs")
    now = datetime.now(UTC)
    root = till.gateway.account("stripe", "default").base_url.rpartition("/")[0]
    await till.http.put(f"{root}/_sandbox/faults/stripe", json={"mode": "down"})
    with pytest.raises(VendorError):
        await till.reconciler.reconcile(source, now)
    assert await due(till, now + timedelta(minutes=14)) == []
    assert (await till.reconciler.reconcile("nobody", now)).checked == 0
