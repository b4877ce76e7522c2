"""The sandbox's own interface."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from wedsync.domain.errors import InvalidInput, VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.kit.settings import Settings
from wedsync.sandbox.app import create_app, serve
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.sandbox.faults import Fault
from wedsync.vendors.paypal import webhook as paypal_webhook
from wedsync.vendors.paypal.certificates import Certificates
from wedsync.vendors.stripe import webhook

Pay = Callable[..., Awaitable[str]]
KEY = {"Authorization": "Bearer k"}


async def _request(
    sandbox: EmbeddedSandbox, method: Literal["GET", "PUT", "POST", "DELETE"], path: str, body: Any = None
) -> Any:
    http = VendorHttp(sandbox.pool, vendor="sandbox", base_url=sandbox.base_url, timeout_seconds=5)
    http.read_error = lambda status, answer: (str(answer["error"]["code"]), json.dumps(answer["error"]))
    answer = await http.request(method, f"/_sandbox{path}", json_body=body)
    return answer.json() if answer.body else None


async def _confirm(sandbox: EmbeddedSandbox, intent: str) -> None:
    await sandbox.http("stripe").request("POST", f"/v1/payment_intents/{intent}/confirm", form=[], headers=KEY)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/faults/stripe", {}, "mode"),
        ("/faults/stripe", {"mode": "sleepy"}, "mode"),
        ("/faults/stripe", {"mode": "down", "colour": 1}, "colour"),
        ("/faults/stripe", {"mode": "down", "times": 0}, "times"),
        ("/faults/stripe", {"mode": "slow", "delay_ms": "soon"}, "delay_ms"),
        ("/faults/stripe", [], "body"),
        ("/clock", {"now": "tomorrow"}, "now"),
        ("/clock", {"now": "2026-11-20T12:00:00"}, "now"),
        ("/webhooks/stripe", {"muted": "perhaps"}, "muted"),
    ],
)
async def test_bad_input_is_answered_with_the_field(sandbox: EmbeddedSandbox, path: str, body: Any, field: str) -> None:
    with pytest.raises(VendorRejected) as caught:
        await _request(sandbox, "PUT", path, body)
    assert (caught.value.status, caught.value.reason) == (422, "invalid_input")
    assert f'"field": "{field}"' in caught.value.detail


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/faults/nobody", {"mode": "down"}),
        ("DELETE", "/faults/nobody", None),
        ("GET", "/ledger/nobody", None),
        ("GET", "/requests/nobody", None),
        ("POST", "/webhooks/nobody", {"event": "x"}),
        ("POST", "/webhooks/stripe", {"event": "payment_intent.succeeded", "object_id": "pi_gone"}),
        ("POST", "/webhooks/stripe", {"event": "payment_intent.succeeded"}),
    ],
)
async def test_an_unknown_vendor_or_object_is_404(sandbox: EmbeddedSandbox, method: Any, path: str, body: Any) -> None:
    with pytest.raises(VendorRejected) as caught:
        await _request(sandbox, method, path, body)
    assert (caught.value.status, caught.value.reason) == (404, "not_found")


async def test_requests_to_an_unknown_vendor_or_path_are_404(sandbox: EmbeddedSandbox) -> None:
    http = VendorHttp(sandbox.pool, vendor="x", base_url=sandbox.base_url, timeout_seconds=5)
    for path in ("/nobody/v1/things", "/stripe/v1/unknown", "/"):
        with pytest.raises(VendorRejected) as caught:
            await http.request("GET", path)
        assert caught.value.status == 404


async def test_standing_faults_are_listed_and_cleared(sandbox: EmbeddedSandbox) -> None:
    await sandbox.faults("stripe", mode="down", times=3)
    await sandbox.faults("paypal", mode="flap", seed=7)
    active = await _request(sandbox, "GET", "/faults")
    assert active["stripe"][0]["times"] == 3
    assert active["paypal"][0]["seed"] == 7
    await sandbox.clear_faults("stripe")
    assert list(await _request(sandbox, "GET", "/faults")) == ["paypal"]
    await sandbox.clear_faults()
    assert await _request(sandbox, "GET", "/faults") == {}


async def test_null_stands_for_what_is_not_said(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ("operation", "wedding_id", "after", "times", "delay_ms", "retry_after_seconds", "seed", "probability")
    )
    await sandbox.faults("stripe", mode="throttle", **nulls)
    plain = Fault(mode="throttle").model_dump()
    assert await _request(sandbox, "GET", "/faults") == {"stripe": [plain]}
    await sandbox.clear_faults()
    intent = await make_intent()
    body = {"event": "payment_intent.created", "object_id": intent, "copies": None, "delay_ms": None}
    assert (await _request(sandbox, "POST", "/webhooks/stripe", body))["sent"] == 1


async def test_the_log_shows_the_request_as_it_came(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await make_intent(wedding_id="w-9")
    (one,) = await sandbox.requests("stripe")
    assert one["method"] == "POST"
    assert one["url"] == f"{sandbox.base_url}/stripe/v1/payment_intents"
    assert base64.b64decode(one["body_base64"]) == b"amount=1500&currency=eur&payment_method=pm_card_visa"
    assert one["headers"]["authorization"] == "Bearer k"
    assert (one["status"], one["operation"], one["account"]) == (200, "create_intent", "default")
    assert (one["wedding_id"], one["step_id"]) == ("w-9", "step-1")
    assert await sandbox.requests("stripe", operation="confirm_intent") == []
    assert (await _request(sandbox, "GET", "/requests/stripe?wedding_id=w-8"))["requests"] == []


async def test_the_moved_clock_runs_on(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await sandbox.set_clock("2030-01-01T00:00:00Z")
    await _confirm(sandbox, await make_intent())
    (entry,) = await sandbox.ledger("stripe")
    created = datetime.fromisoformat(entry["created_at"])
    start = datetime(2030, 1, 1, tzinfo=UTC)
    assert start < created < start + timedelta(minutes=1)
    assert datetime.fromisoformat((await _request(sandbox, "GET", "/clock"))["now"]) > created


async def test_the_ledger_can_be_asked_for_one_wedding(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await _confirm(sandbox, await make_intent())
    assert len((await _request(sandbox, "GET", "/ledger/stripe?wedding_id=wedding-1"))["entries"]) == 1
    assert (await _request(sandbox, "GET", "/ledger/stripe?wedding_id=other"))["entries"] == []


async def test_reset_forgets_everything(sandbox: EmbeddedSandbox, make_intent: Pay) -> None:
    await _confirm(sandbox, await make_intent())
    await sandbox.faults("stripe", mode="down")
    await sandbox.set_clock("2030-01-01T00:00:00Z")
    await sandbox.reset()
    assert await sandbox.ledger("stripe") == []
    assert await sandbox.requests("stripe") == []
    assert await _request(sandbox, "GET", "/faults") == {}
    now = datetime.fromisoformat((await _request(sandbox, "GET", "/clock"))["now"])
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


def _is_authentic(sandbox: EmbeddedSandbox, headers: dict[str, str], body: bytes) -> bool:
    secrets = sandbox.settings.vendor_webhook_secrets("stripe")
    return webhook.verify(body, headers, "", secrets, datetime.now(UTC))


async def test_a_deed_sends_its_signed_webhook_by_itself(
    sandbox: EmbeddedSandbox, make_intent: Pay, receiver: Any
) -> None:
    intent = await make_intent()
    await _confirm(sandbox, intent)
    path, headers, body = await receiver.next()
    assert path == "/api/integrations/webhooks/stripe"
    assert _is_authentic(sandbox, headers, body)
    (event,) = webhook.parse(body, headers)
    assert (event.type, event.object_id) == ("payment.succeeded", intent)


async def test_a_webhook_that_is_not_taken_is_sent_again(
    sandbox: EmbeddedSandbox, make_intent: Pay, receiver: Any
) -> None:
    receiver.answers.append(503)
    await _confirm(sandbox, await make_intent())
    first, second = await receiver.next(), await receiver.next()
    assert first[2] == second[2]


async def test_webhooks_on_demand_may_be_many_late_or_badly_signed(
    sandbox: EmbeddedSandbox, make_intent: Pay, receiver: Any
) -> None:
    await sandbox.webhook_policy("stripe", muted=True)
    intent = await make_intent()
    await _confirm(sandbox, intent)
    await sandbox.webhook("stripe", "payment_intent.succeeded", intent, copies=3, delay_ms=20)
    bodies = [await receiver.next() for _ in range(3)]
    assert len({body for _, _, body in bodies}) == 1
    assert all(_is_authentic(sandbox, headers, body) for _, headers, body in bodies)
    await sandbox.webhook("stripe", "payment_intent.succeeded", intent, bad_signature=True)
    _, headers, body = await receiver.next()
    assert body == bodies[0][2]
    assert not _is_authentic(sandbox, headers, body)
    assert receiver.taken.empty()


async def _capture_order(sandbox: EmbeddedSandbox, token: str) -> str:
    http = sandbox.http("paypal")
    granted = await http.request(
        "POST", "/v1/oauth2/token", form=[("grant_type", "client_credentials")], auth=("id", "secret")
    )
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    unit = {"amount": {"currency_code": "EUR", "value": "12.50"}, "custom_id": "w-1:deposit"}
    order: Any = {"intent": "CAPTURE", "purchase_units": [unit]}
    order_id = (await http.request("POST", "/v2/checkout/orders", json_body=order, headers=headers)).json()["id"]
    source: Any = {"payment_source": {"paypal": {"vault_id": token}}}
    await http.request("POST", f"/v2/checkout/orders/{order_id}/capture", json_body=source, headers=headers)
    return str(order_id)


@pytest.mark.parametrize(
    ("token", "kind"),
    [("8kk8451t", "payment.succeeded"), ("pending", "payment.succeeded"), ("pending-denied", "payment.failed")],
)
async def test_paypals_webhooks_can_be_checked_by_its_certificate(
    sandbox: EmbeddedSandbox, receiver: Any, token: str, kind: str
) -> None:
    order_id = await _capture_order(sandbox, token)
    path, headers, body = await receiver.next()
    assert path == "/api/integrations/webhooks/paypal"
    certificates = Certificates()
    await paypal_webhook.prepare(headers, sandbox.http("paypal"), certificates)
    secrets = sandbox.settings.vendor_webhook_secrets("paypal")
    assert paypal_webhook.verify(body, headers, "", secrets, datetime.now(UTC), certificates)
    (event,) = paypal_webhook.parse(body, headers)
    assert (event.type, event.object_id) == (kind, order_id)
    assert (event.wedding_id, event.step_id, event.facts["amount_minor"]) == ("w-1", "deposit", 1250)
    await sandbox.webhook("paypal", event.vendor_type, order_id, bad_signature=True)
    _, forged, again = await receiver.next()
    assert again == body
    assert not paypal_webhook.verify(again, forged, "", secrets, datetime.now(UTC), certificates)


def test_the_sandbox_refuses_to_start_outside_the_local_environment() -> None:
    outside = Settings(
        environment="staging", api_key_pepper="x" * 32, link_secret="y" * 32, codec_keys=f"k:{'ab' * 32}", vendors={}
    )
    with pytest.raises(InvalidInput) as caught:
        create_app(outside)
    assert caught.value.field == "WEDSYNC_ENVIRONMENT"


async def test_serve_tells_its_port_and_ends_when_cancelled() -> None:
    ports: asyncio.Queue[int] = asyncio.Queue()
    settings = Settings(environment="local", vendors={})
    task = asyncio.create_task(serve(settings, port=0, ready=ports.put_nowait))
    port = await asyncio.wait_for(ports.get(), 10)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /_sandbox/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'"status":"ok"' in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_taken_port_is_an_error() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        await serve(Settings(environment="local", vendors={}), port=port, ready=lambda _: None)
    server.close()
    await server.wait_closed()
