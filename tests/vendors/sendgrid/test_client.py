"""The client against the stand-in, over real HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.sendgrid import mapping

ACCOUNT: dict[str, Any] = {"account_id": "Villa Aurora <weddings@villa.example>", "api_key": "SG.key"}


@pytest.fixture
async def client(sandbox: EmbeddedSandbox) -> VendorClient:
    await sandbox.webhook_policy("sendgrid", muted=True)
    return sandbox.client("sendgrid", **ACCOUNT)


@pytest.fixture
def email(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(
        subject: str = "You are booked", text: str = "See you.", address: str | None = "ada@example.com", **fields: Any
    ) -> Call:
        person = {"id": "ada", "name": "Ada", "email": address}
        inputs = {"to": person, "subject": subject, "text": text}
        return make_call("sendgrid", "email.send", "send_mail", inputs, **fields)

    return make


async def test_a_sent_email_is_done_and_stands_in_the_ledger(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    effect = await client.send(email())
    (entry,) = await sandbox.ledger("sendgrid")
    assert effect.state == "done"
    assert effect.external_id == effect.facts["message_id"] == entry["object_id"]
    assert (entry["operation"], entry["idempotency_key"]) == ("send_mail", None)
    looked = await client.inspect(email(facts=effect.facts))
    assert (looked.state, looked.external_id) == ("done", effect.external_id)


async def test_the_body_names_sender_recipient_wedding_and_step(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    await client.send(email("Grüße 💐"))
    (request,) = await sandbox.requests("sendgrid")
    arguments = {"wedding": "wedding-1", "step": "step-1", "wedsync_reference": "0123456789abcdefghijklmnopqrstuv"}
    assert json.loads(base64.b64decode(request["body_base64"])) == {
        "personalizations": [{"to": [{"email": "ada@example.com"}], "custom_args": arguments}],
        "from": {"email": "weddings@villa.example", "name": "Villa Aurora"},
        "subject": "Grüße 💐",
        "content": [{"type": "text/plain", "value": "See you."}],
    }
    assert request["headers"]["authorization"] == "Bearer SG.key"


async def test_a_lost_answer_stays_unknown_and_can_not_be_looked_up(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    await sandbox.faults("sendgrid", mode="commit_then_drop")
    with pytest.raises(OutcomeUnknown):
        await client.send(email())
    assert len(await sandbox.ledger("sendgrid")) == 1
    with pytest.raises(InvalidInput):
        await client.find(email())
    with pytest.raises(InvalidInput):
        await client.inspect(email())


@pytest.mark.parametrize(
    ("mode", "error"),
    [("down", VendorUnavailable), ("throttle", VendorThrottled), ("refuse", VendorRejected)],
)
async def test_each_fault_becomes_its_error(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call], mode: str, error: type[Exception]
) -> None:
    await sandbox.faults("sendgrid", mode=mode)
    with pytest.raises(error):
        await client.send(email())
    assert await sandbox.ledger("sendgrid") == []


@pytest.mark.parametrize("missing", ["api_key", "account_id"])
async def test_an_incomplete_account_is_not_authorized(
    sandbox: EmbeddedSandbox, email: Callable[..., Call], missing: str
) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("sendgrid", **{**ACCOUNT, missing: ""}).send(email())
    assert await sandbox.requests("sendgrid") == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"address": None}, "inputs.to.email"),
        ({"address": "Ada <ada@example.com>"}, "inputs.to.email"),
        ({"subject": " "}, "inputs.subject"),
        ({"subject": "Hi\nBcc: eve@example.com"}, "inputs.subject"),
        ({"text": ""}, "inputs.text"),
    ],
)
async def test_a_faulty_email_is_refused_before_it_is_sent(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.send(email(**fields))
    assert caught.value.field == field
    assert await sandbox.requests("sendgrid") == []


async def test_other_inputs_and_operations_are_invalid(client: VendorClient, make_call: Callable[..., Call]) -> None:
    with pytest.raises(InvalidInput):
        await client.send(make_call("sendgrid", "email.send", "send_mail", {"text": "x"}))
    with pytest.raises(InvalidInput):
        await client.send(make_call("sendgrid", "email.send", "unsend"))


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"X-RateLimit-Reset": "1700000030"}, 30.0),
        ({"X-RateLimit-Reset": "1600000000"}, 0.0),
        ({"X-RateLimit-Reset": "9999999999"}, 86_400.0),
        ({"X-RateLimit-Reset": "1700000030", "Retry-After": "5"}, None),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({}, None),
    ],
)
def test_the_rate_limits_reset_says_how_long_to_wait(headers: dict[str, str], wait: float | None) -> None:
    assert mapping.wait_seconds(headers, datetime.fromtimestamp(1_700_000_000, UTC)) == wait


def test_an_errors_detail_repeats_nothing_that_may_name_a_guest() -> None:
    body = {"errors": [{"message": "ada@example.com is not valid", "field": "personalizations.0.to.0.email"}]}
    assert mapping.read_error(400, body) == (
        "invalid:personalizations.0.to.0.email",
        "refused personalizations.0.to.0.email",
    )
    assert mapping.read_error(401, {"errors": [{"message": "x", "field": None}]}) == ("http_401", "answered 401")
    assert mapping.read_error(500, None) == ("http_500", "answered 500")


def test_an_answer_without_an_id_is_still_done() -> None:
    effect = mapping.accepted("")
    assert (effect.state, effect.external_id, effect.facts, effect.detail) == ("done", None, {}, "email accepted")
