"""The client against the stand-in, over real HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox

ACCOUNT_SID = "AC" + "0a" * 16
ACCOUNT: dict[str, Any] = {
    "account_id": ACCOUNT_SID,
    "api_key": "auth-token",
    "client_id": "+15005550006",
    "webhook_url": "",
}


@pytest.fixture
def client(sandbox: EmbeddedSandbox) -> VendorClient:
    return sandbox.client("twilio", **ACCOUNT)


@pytest.fixture
def sms(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(text: str = "You are booked.", phone: str | None = "+393331234567", **fields: Any) -> Call:
        person = {"id": "ada", "name": "Ada", "phone": phone}
        fields.setdefault("first_sent_at", datetime.now(UTC))
        return make_call("twilio", "sms.send", "send_message", {"to": person, "text": text}, **fields)

    return make


async def test_a_sent_message_is_done_and_stands_in_the_ledger(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    effect = await client.send(sms())
    (entry,) = await sandbox.ledger("twilio")
    assert effect.state == "done"
    assert effect.external_id == effect.facts["message_id"] == entry["object_id"]
    assert (entry["operation"], entry["state"], entry["wedding_id"]) == ("send_message", "active", "wedding-1")


async def test_the_form_is_byte_identical_on_a_retry(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    call = sms("Grüße & Küsse 💐")
    await client.send(call)
    await client.send(call)
    first, second = await sandbox.requests("twilio", "send_message")
    assert first["body_base64"] == second["body_base64"]
    form = parse_qs(base64.b64decode(first["body_base64"]).decode())
    assert form == {"To": ["+393331234567"], "From": ["+15005550006"], "Body": ["Grüße & Küsse 💐"]}


async def test_the_status_callback_carries_wedding_and_step(sandbox: EmbeddedSandbox, sms: Callable[..., Call]) -> None:
    account = {**ACCOUNT, "webhook_url": "http://127.0.0.1:9/hooks?x=1"}
    await sandbox.client("twilio", **account).send(sms())
    (request,) = await sandbox.requests("twilio", "send_message")
    form = parse_qs(base64.b64decode(request["body_base64"]).decode())
    query = parse_qs(urlsplit(form["StatusCallback"][0]).query)
    assert query == {"x": ["1"], "wedding": ["wedding-1"], "step": ["step-1"]}


@pytest.mark.parametrize(
    ("api_key", "credential"),
    [("auth-token", f"{ACCOUNT_SID}:auth-token"), ("SKabc:the-secret", "SKabc:the-secret")],
)
async def test_an_auth_token_and_an_api_key_pair_both_log_in(
    sandbox: EmbeddedSandbox, sms: Callable[..., Call], api_key: str, credential: str
) -> None:
    await sandbox.client("twilio", **{**ACCOUNT, "api_key": api_key}).send(sms())
    (request,) = await sandbox.requests("twilio")
    assert request["headers"]["authorization"] == "Basic " + base64.b64encode(credential.encode()).decode()


async def test_a_messaging_service_sends_instead_of_a_number(
    sandbox: EmbeddedSandbox, sms: Callable[..., Call]
) -> None:
    service = "MG" + "1b" * 16
    await sandbox.client("twilio", **{**ACCOUNT, "client_id": service}).send(sms())
    (request,) = await sandbox.requests("twilio")
    form = parse_qs(base64.b64decode(request["body_base64"]).decode())
    assert form["MessagingServiceSid"] == [service]
    assert "From" not in form


@pytest.mark.parametrize("phone", [None, "", "0333 1234567", "+39 333 1234567", "+1", "+999999999999999999", "ada"])
async def test_a_number_that_is_not_e164_is_refused_before_it_is_sent(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call], phone: str | None
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.send(sms(phone=phone))
    assert caught.value.field == "inputs.to.phone"
    assert await sandbox.requests("twilio") == []


@pytest.mark.parametrize("text", ["", "  \n", "x" * 1601])
async def test_an_empty_or_too_long_text_is_refused_before_it_is_sent(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call], text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.send(sms(text))
    assert caught.value.field == "inputs.text"
    assert await sandbox.requests("twilio") == []


async def test_twilios_refusal_is_definite_and_names_no_number(client: VendorClient, sms: Callable[..., Call]) -> None:
    with pytest.raises(VendorRejected) as caught:
        await client.send(sms(phone="+15005550004"))
    assert (caught.value.reason, caught.value.status) == ("21610", 400)
    assert "5005550004" not in caught.value.detail


@pytest.mark.parametrize("missing", ["account_id", "client_id", "api_key"])
async def test_an_incomplete_account_is_not_authorized(
    sandbox: EmbeddedSandbox, sms: Callable[..., Call], missing: str
) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("twilio", **{**ACCOUNT, missing: ""}).send(sms())
    assert await sandbox.ledger("twilio") == []


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("down", VendorUnavailable),
        ("throttle", VendorThrottled),
        ("refuse", VendorRejected),
        ("commit_then_drop", OutcomeUnknown),
    ],
)
async def test_each_fault_becomes_its_error(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call], mode: str, error: type[Exception]
) -> None:
    await sandbox.faults("twilio", mode=mode)
    with pytest.raises(error):
        await client.send(sms())
    assert len(await sandbox.ledger("twilio")) == (1 if mode == "commit_then_drop" else 0)


async def _drop(sandbox: EmbeddedSandbox, client: VendorClient, call: Call) -> str:
    await sandbox.faults("twilio", mode="commit_then_drop", operation="send_message")
    with pytest.raises(OutcomeUnknown):
        await client.send(call)
    await sandbox.clear_faults()
    newest: str = (await sandbox.ledger("twilio"))[-1]["object_id"]
    return newest


async def test_a_message_whose_answer_was_lost_is_found(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    call = sms("Che bello: 婚礼")
    sid = await _drop(sandbox, client, call)
    found = await client.find(call)
    assert found == Effect(state="done", external_id=sid, facts={"message_id": sid}, detail=f"message {sid} delivered")
    assert len(await sandbox.requests("twilio", "send_message")) == 1


async def test_a_message_that_never_arrived_is_not_found(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    await client.send(sms("another text"))
    await client.send(sms(phone="+393331234568"))
    await sandbox.faults("twilio", mode="down", operation="send_message")
    with pytest.raises(VendorUnavailable):
        await client.send(sms())
    assert await client.find(sms()) is None


async def test_an_older_twin_is_not_taken_for_ours(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    await client.send(sms())
    later = sms(first_sent_at=datetime.now(UTC) + timedelta(seconds=60))
    assert await client.find(later) is None


async def test_what_is_still_queued_is_found_on_a_later_page(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    call = sms("the one")
    sid = (await client.send(call)).external_id
    for number in range(205):
        await client.send(sms(f"noise {number}"))
    found = await client.find(call)
    assert found is not None
    assert found.external_id == sid
    assert len(await sandbox.requests("twilio", "list_messages")) == 2


async def test_find_asks_only_for_what_twilio_documents(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    await client.find(sms())
    (request,) = await sandbox.requests("twilio", "list_messages")
    assert set(parse_qs(urlsplit(request["url"]).query)) <= {"To", "From", "DateSent", "PageSize", "Page", "PageToken"}
    assert request["method"] == "GET"


async def test_find_while_twilio_is_down_stays_unavailable(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    await sandbox.faults("twilio", mode="down")
    with pytest.raises(VendorUnavailable):
        await client.find(sms())


async def test_look_tells_what_became_of_the_message(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    effect = await client.send(sms())
    assert (await client.inspect(sms(facts=effect.facts))).state == "done"
    assert (await client.inspect(sms(facts={"message_id": "SM" + "0" * 32}))).state == "absent"
    with pytest.raises(InvalidInput):
        await client.inspect(sms())


async def test_look_raises_when_the_message_was_lost(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    effect = await client.send(sms())
    await sandbox.webhook("twilio", "undelivered", effect.external_id)
    with pytest.raises(VendorRejected) as caught:
        await client.inspect(sms(facts=effect.facts))
    assert caught.value.reason == "30003"
    assert await client.find(sms()) is None


async def test_a_counter_message_is_a_message_of_its_own(
    sandbox: EmbeddedSandbox, client: VendorClient, sms: Callable[..., Call]
) -> None:
    action = await client.send(sms("You are booked."))
    undo = await client.send(sms("The booking was called off.", facts=action.facts, idempotency_key="undo"))
    assert undo.external_id != action.external_id
    assert len(await sandbox.ledger("twilio")) == 2


async def test_an_unknown_operation_is_refused(client: VendorClient, make_call: Callable[..., Call]) -> None:
    with pytest.raises(InvalidInput):
        await client.send(make_call("twilio", "sms.send", "unsend"))
