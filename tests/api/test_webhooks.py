from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import stripe
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import insert, select
from standardwebhooks import Webhook
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from twilio.request_validator import RequestValidator

from api.webhooks import router
from tests.support.black_hole import black_hole
from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.domain.inbox.messages import LANES, drain_workflow_id
from wedsync.domain.inbox.token_bucket import Limit
from wedsync.domain.weddings.messages import DRAIN_INBOX_WORKFLOW
from wedsync.kit import temporal
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox.tables import inbox
from wedsync.store.weddings.tables import weddings
from wedsync.usecases.inbox.receive import WebhookReceiver
from wedsync.vendors.paypal.sandbox_signing import webhook_headers
from wedsync.vendors.registry import load_registry

OLD_SECRET, NEW_SECRET = "whsec_old", "whsec_new"
PATH = "/api/integrations/webhooks/stripe"


@dataclass
class WebhookClient:
    http: httpx.AsyncClient
    db: Database
    settings: Settings

    async def rows(self) -> list[Any]:
        async with self.db.system() as connection:
            return list((await connection.execute(select(inbox).order_by(inbox.c.id))).all())


def app_of(settings: Settings, db: Database, provider: Callable[[], Any]) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    app.state.settings, app.state.registry = settings, load_registry()
    app.state.database, app.state.temporal = db, provider
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://api.test")


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    vendors = {
        "stripe": VendorSettings(webhook_secret=SecretStr(f"{OLD_SECRET},{NEW_SECRET}")),
        "zapier": VendorSettings(webhook_secret=SecretStr(NEW_SECRET)),
    }
    return settings.model_copy(update={"vendors": vendors, "request_max_bytes": 10_000})


@pytest.fixture
async def client(
    api_settings: Settings, fresh_database_urls: Any, temporal_client: Client
) -> AsyncIterator[WebhookClient]:
    db = Database(fresh_database_urls.app)

    async def provider() -> Client:
        return temporal_client

    app = app_of(api_settings, db, provider)
    async with app.router.lifespan_context(app), client_of(app) as http:
        yield WebhookClient(http, db, api_settings)
    await db.close()
    for lane in LANES:
        handle = temporal_client.get_workflow_handle(drain_workflow_id(lane))
        try:
            await handle.terminate()
        except RPCError:
            continue


def payload(event_id: str = "evt_1", **changes: Any) -> bytes:
    intent = {"id": "pi_1", "object": "payment_intent", "amount": 100, "currency": "eur", "metadata": {}} | changes
    event = {"id": event_id, "object": "event", "type": "payment_intent.succeeded", "data": {"object": intent}}
    return json.dumps(event).encode()


def signed(body: bytes, secret: str = NEW_SECRET, at: int | None = None) -> dict[str, str]:
    stamp = int(time.time()) if at is None else at
    text = f"{stamp}.{body.decode('latin-1')}"
    if body.isascii():
        signature = stripe.WebhookSignature._compute_signature(text, secret)
    else:
        signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={stamp},v1={signature}", "Content-Type": "application/json"}


async def post(client: WebhookClient, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return await client.http.post(PATH, content=body, headers=signed(body) if headers is None else headers)


async def test_a_signed_event_is_acknowledged_and_stands_in_the_inbox_encrypted(client: WebhookClient) -> None:
    body = payload()
    response = await post(client, body)
    assert (response.status_code, response.json()) == (
        200,
        {"received": True, "event_id": "evt_1", "duplicate": False},
    )
    (row,) = await client.rows()
    assert (row.source, row.event_id, row.state, row.priority) == ("stripe", "evt_1", "received", 2)
    assert row.event["type"] == "payment.succeeded"
    assert b"pi_1" not in row.body
    keyring = Keyring.parse(client.settings.codec_keys.get_secret_value())
    assert keyring.open(row.body, tenant="stripe", row="evt_1") == body


async def test_the_drain_is_told_without_the_caller_waiting_for_it(
    client: WebhookClient, temporal_client: Client
) -> None:
    await post(client, payload())
    receiver: WebhookReceiver = client.http._transport.app.state.webhook_receiver  # type: ignore[attr-defined]
    await receiver.close()
    described = await temporal_client.get_workflow_handle(drain_workflow_id("normal")).describe()
    assert (described.workflow_type, described.task_queue) == (DRAIN_INBOX_WORKFLOW, "workflows")
    assert await described.static_summary() == "drain the normal lane of the inbox"


async def test_an_event_that_comes_again_is_a_duplicate_and_stays_one_row(client: WebhookClient) -> None:
    answers = [(await post(client, payload())).json()["duplicate"] for _ in range(3)]
    assert answers == [False, True, True]
    assert len(await client.rows()) == 1


@pytest.mark.parametrize("secret", [OLD_SECRET, NEW_SECRET])
async def test_any_active_secret_is_accepted(client: WebhookClient, secret: str) -> None:
    body = payload()
    assert (await post(client, body, signed(body, secret))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Stripe-Signature": ""},
        {"Stripe-Signature": "t=,v1="},
        {"Stripe-Signature": "t=99999999999999999999,v1=00"},
        {"Stripe-Signature": "\x7f,,,=="},
        signed(payload(), "whsec_other"),
        signed(payload("evt_2")),
        signed(payload(), at=int(time.time()) - 3600),
    ],
)
async def test_a_signature_that_does_not_hold_is_refused_and_nothing_recorded(
    client: WebhookClient, headers: dict[str, str]
) -> None:
    response = await post(client, payload(), headers)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "webhook_signature"
    assert await client.rows() == []


@pytest.mark.parametrize("source", ["nobody", "open_meteo", "..", "stripe%00", "a" * 500])
async def test_an_unknown_source_and_one_that_sends_nothing_are_not_found(client: WebhookClient, source: str) -> None:
    response = await client.http.post(f"/api/integrations/webhooks/{source}", content=b"{}")
    assert response.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00broken",
        b"",
        b"[]",
        b"null",
        b'{"id": 7}',
        b"[" * 9000,
        b'{"a":' * 1900,
        b'{"id":"evt_1","type":"x","data":{"object":[]}}',
        b'{"id":"","type":"x","data":{"object":{}}}',
        b'{"id":"' + b"e" * 600 + b'","type":"x","data":{"object":{}}}',
    ],
)
async def test_a_signed_body_that_is_no_event_is_refused_cleanly_and_nothing_recorded(
    client: WebhookClient, body: bytes
) -> None:
    response = await post(client, body)
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body")
    assert await client.rows() == []


async def test_text_that_postgres_cannot_hold_is_recorded_all_the_same(client: WebhookClient) -> None:
    body = payload("evt_\x00", description="\ud800", metadata={"wedding_id": "w\x00", "step_id": "\udfff"})
    response = await post(client, body)
    assert (response.status_code, response.json()["event_id"]) == (200, "evt_\ufffd")
    assert len(await client.rows()) == 1


async def test_an_objects_id_too_long_for_an_index_is_recorded_short(client: WebhookClient) -> None:
    response = await post(client, payload("evt_1", id="pi_" + "x" * 3000))
    assert response.status_code == 200
    (row,) = await client.rows()
    assert row.event["object_id"].startswith("sha256:")


async def test_a_contact_with_malformed_text_is_recorded_all_the_same(client: WebhookClient) -> None:
    body = json.dumps({"id": "1", "type": "booked", "email": "a\ud800@example.com"}).encode()
    response = await client.http.post(
        "/api/integrations/webhooks/zapier", content=body, headers={"X-API-Key": NEW_SECRET}
    )
    assert (response.status_code, response.json()["duplicate"]) == (200, False)
    (row,) = await client.rows()
    assert len(row.contacts) == 1


async def test_a_body_beyond_the_limit_is_refused_declared_or_streamed(client: WebhookClient) -> None:
    body = payload(description="x" * 20_000)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    declared = await post(client, body)
    streamed = await client.http.post(PATH, content=chunks(), headers=signed(body))
    lied = await post(client, body, {**signed(body), "Content-Length": "9" * 400})
    assert [response.status_code for response in (declared, streamed, lied)] == [413, 413, 413]
    assert await client.rows() == []


async def test_a_flood_of_one_source_is_slowed_and_told_when_to_come_back(
    api_settings: Settings, client: WebhookClient, temporal_client: Client
) -> None:
    async def provider() -> Client:
        return temporal_client

    app = app_of(api_settings, client.db, provider)
    app.state.webhook_receiver = WebhookReceiver(
        api_settings, client.db, load_registry(), InboxDispatcher(provider), limit=Limit(per_second=0.1, burst=2)
    )
    async with app.router.lifespan_context(app), client_of(app) as http:
        # Forged messages take nothing of the source's share.
        forged = [(await http.post(PATH, content=b"{}")).status_code for _ in range(5)]
        answers = [
            await http.post(PATH, content=body, headers=signed(body))
            for body in (payload(f"evt_{number}") for number in range(3))
        ]
    assert forged == [401] * 5
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 10
    assert len(await client.rows()) == 2


async def test_with_postgres_down_the_source_is_asked_to_send_again(
    api_settings: Settings, temporal_client: Client
) -> None:
    async def provider() -> Client:
        return temporal_client

    db = Database("postgresql://nobody:x@127.0.0.1:1/none")
    body = payload()
    async with client_of(app_of(api_settings, db, provider)) as http:
        response = await http.post(PATH, content=body, headers=signed(body))
    await db.close()
    assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
    assert int(response.headers["retry-after"]) > 0


async def test_with_postgres_hung_the_source_is_asked_to_send_again_and_when(
    api_settings: Settings, temporal_client: Client
) -> None:
    async def provider() -> Client:
        return temporal_client

    async with black_hole() as address:
        db = Database(f"postgresql://nobody:x@{address}/none")
        app = app_of(api_settings, db, provider)
        app.state.webhook_receiver = WebhookReceiver(
            api_settings, db, load_registry(), InboxDispatcher(provider), store_timeout_seconds=0.5
        )
        body = payload()
        async with app.router.lifespan_context(app), client_of(app) as http:
            named = [PATH, "/api/integrations/webhooks/registered"]
            answers = [await http.post(path, content=body, headers=signed(body)) for path in named]
        await db.close()
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "5")] * 2


async def test_with_temporal_down_events_are_still_acknowledged_and_kept(
    api_settings: Settings, client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")

    async def provider() -> Client:
        return await temporal.connect(api_settings)

    app = app_of(api_settings, client.db, provider)
    body = payload()
    async with app.router.lifespan_context(app), client_of(app) as http:
        response = await http.post(PATH, content=body, headers=signed(body))
    assert response.status_code == 200
    (row,) = await client.rows()
    assert row.due_at is not None


async def test_an_event_of_a_wedding_on_its_day_goes_before_all(client: WebhookClient) -> None:
    now = utc_now()
    async with client.db.system() as connection:
        await connection.execute(insert(organizations).values(id="o1", name="Studio", created_at=now))
        await connection.execute(
            insert(weddings).values(
                id="w1",
                organization_id="o1",
                reference="w1",
                status="active",
                phase="ceremony",
                mode="wedding_day",
                ceremony_local="2027-06-19T16:00",
                zone="Europe/Rome",
                ceremony_at=now,
                plan_version=1,
                created_at=now,
                updated_at=now,
            )
        )
    await post(client, payload(metadata={"wedding_id": "w1", "step_id": "deposit"}))
    (row,) = await client.rows()
    assert row.priority == 0


async def test_twilio_signs_the_public_address_with_its_query(client: WebhookClient) -> None:
    path = "/api/integrations/webhooks/twilio?wedding=w%201&step=s"
    fields = {"MessageSid": "SM1", "MessageStatus": "delivered", "To": "+390318125551"}
    (secret,) = client.settings.vendor_webhook_secrets("twilio")
    signature = RequestValidator(secret).compute_signature(client.settings.api_url + path, fields)
    headers = {"X-Twilio-Signature": signature}
    assert (await client.http.post(path, data=fields, headers=headers)).status_code == 200
    assert (await client.http.post(path + "x", data=fields, headers=headers)).status_code == 401


async def test_every_vendor_refuses_garbage(client: WebhookClient) -> None:
    registry = load_registry()
    vendors = [name for name in registry.manifests if registry.webhook(name) is not None]
    garbage = (b"", b"\xff\x00", b"[[[[", b"{}")
    paths = [f"/api/integrations/webhooks/{vendor}" for vendor in vendors]
    answers = {
        (path, body): (await client.http.post(path, content=body)).status_code for path in paths for body in garbage
    }
    assert {sent: status for sent, status in answers.items() if status != 401} == {}
    assert await client.rows() == []


async def test_a_source_without_a_challenge_answers_no_get(client: WebhookClient) -> None:
    assert (await client.http.get(PATH)).status_code == 405
    assert (await client.http.get("/api/integrations/webhooks/nobody")).status_code == 404


async def test_resends_standard_webhooks_are_accepted_as_its_library_signs_them(client: WebhookClient) -> None:
    (secret,) = client.settings.vendor_webhook_secrets("resend")
    assert base64.b64decode(secret.removeprefix("whsec_"))
    now = datetime.now(UTC)
    body = json.dumps(
        {"type": "email.delivered", "created_at": now.isoformat(), "data": {"email_id": "em_1", "to": ["a@b.test"]}}
    )
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", now, body),
    }
    svix = {name.replace("webhook", "svix"): value for name, value in headers.items()}
    response = await client.http.post("/api/integrations/webhooks/resend", content=body, headers=svix)
    assert response.status_code == 200


async def test_graph_is_shown_that_the_address_is_ours_as_plain_text_and_nothing_is_recorded(
    client: WebhookClient,
) -> None:
    path = "/api/integrations/webhooks/microsoft_graph"
    response = await client.http.post(path, params={"validationToken": "a b<c"}, content=b"")
    assert (response.status_code, response.text) == (200, "a b<c")
    assert response.headers["content-type"].startswith("text/plain")
    assert await client.rows() == []


async def test_paypals_certificate_is_fetched_before_its_signature_is_judged(
    settings: Settings, client: WebhookClient
) -> None:
    async def provider() -> Client:
        raise RPCError("down", RPCStatusCode.UNAVAILABLE, b"")

    body = json.dumps(
        {"id": "WH-1", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource": {"id": "CAP-1", "custom_id": ""}}
    ).encode()
    with EmbeddedSandbox(Settings()) as sandbox:
        account = VendorSettings(base_url=sandbox.vendor_url("paypal"), webhook_secret=SecretStr("WEBHOOK-ID"))
        app = app_of(settings.model_copy(update={"vendors": {"paypal": account}}), client.db, provider)
        headers = webhook_headers(body, "WEBHOOK-ID", sandbox.vendor_url("paypal"))
        async with app.router.lifespan_context(app), client_of(app) as http:
            path = "/api/integrations/webhooks/paypal"
            taken = await http.post(path, content=body, headers=headers)
            forged = await http.post(path, content=body + b" ", headers=headers)
        await sandbox.close()
    assert (taken.status_code, forged.status_code) == (200, 401)
    assert taken.json()["event_id"] == "WH-1"
