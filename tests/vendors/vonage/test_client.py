"""Vonage's client against its stand-in and the vendor's contract, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.vonage import mapping

ACCOUNT: dict[str, Any] = {"api_key": "abcd1234", "client_secret": "Abcdef0123456789", "client_id": "Wedding"}


def sms(text: str = "See you at four", phone: str | None = "+447700900123") -> dict[str, Any]:
    return {"to": {"id": "ada", "name": "Ada", "phone": phone}, "text": text}


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(inputs: dict[str, Any] | None = None, operation: str = "send_sms", **fields: Any) -> Call:
        return make_call("vonage", "sms.send", operation, inputs or sms(), **fields)

    return make


async def forms(sandbox: EmbeddedSandbox) -> list[bytes]:
    return [base64.b64decode(one["body_base64"]) for one in await sandbox.requests("vonage")]


async def test_a_message_is_sent_and_known_by_its_id(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], contract: Callable[[str], Any], assert_contract: Any
) -> None:
    client = sandbox.client("vonage", **ACCOUNT)
    sent = await client.send(call())
    (entry,) = await sandbox.ledger("vonage")
    assert sent.state == "done"
    assert sent.external_id == sent.facts["message_id"] == entry["object_id"]
    assert (await client.inspect(call(facts=sent.facts))).state == "done"
    assert await assert_contract("vonage", "vonage-sms") == 1
    schemas = contract("vonage-sms").doc["components"]["schemas"]
    (one,) = await sandbox.requests("vonage")
    answer = json.loads(base64.b64decode(one["response_body_base64"]))
    assert answer.keys() <= schemas["SMS"]["properties"].keys()
    assert answer["messages"][0].keys() <= schemas["Message"]["properties"].keys()


@pytest.mark.parametrize(
    ("text", "kind", "parts"), [("a" * 161, "text", 2), ("ね" * 71, "unicode", 2), ("€", "text", 1)]
)
async def test_long_and_foreign_texts_are_sent_in_parts(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], text: str, kind: str, parts: int
) -> None:
    sent = await sandbox.client("vonage", **ACCOUNT).send(call(sms(text)))
    ids = sent.facts["message_ids"]
    assert isinstance(ids, list)
    assert len(ids) == parts
    assert f"type={kind}".encode() in (await forms(sandbox))[0]
    assert len(await sandbox.ledger("vonage")) == 1


async def test_a_repeated_call_sends_identical_bytes_and_a_second_message(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("vonage", **ACCOUNT)
    first, second = await client.send(call()), await client.send(call())
    sent = await forms(sandbox)
    assert sent[0] == sent[1]
    assert first.external_id != second.external_id


async def test_a_dropped_answer_is_unknown_and_nothing_can_be_found(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("vonage", **ACCOUNT)
    await sandbox.faults("vonage", mode="commit_then_drop", operation="send_sms", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(call())
    manifest = sandbox.registry.manifest("vonage").action("sms.send")
    assert manifest is not None
    assert manifest.operations[0].on_unknown == "unsafe"
    with pytest.raises(InvalidInput):
        await client.find(call())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 5}, VendorThrottled),
        ({"mode": "refuse"}, VendorRejected),
    ],
)
async def test_faults_become_their_errors(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], fault: dict[str, Any], error: type[Exception]
) -> None:
    await sandbox.faults("vonage", **fault)
    with pytest.raises(error) as raised:
        await sandbox.client("vonage", **ACCOUNT).send(call())
    if isinstance(raised.value, VendorRejected):
        assert raised.value.reason == "number_barred"
    assert await sandbox.ledger("vonage") == []


async def test_bad_credentials_are_not_authorized(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("vonage", **{**ACCOUNT, "client_secret": "revoked"}).send(call())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("1", VendorThrottled),
        ("2", VendorRejected),
        ("4", NotAuthorized),
        ("5", OutcomeUnknown),
        ("8", NotAuthorized),
        ("9", VendorRejected),
        ("10", VendorThrottled),
        ("99", VendorRejected),
    ],
)
def test_statuses_become_their_errors(status: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        mapping.effect({"message-count": "1", "messages": [{"status": status, "error-text": "to +44..."}]})


@pytest.mark.parametrize(
    "body",
    [None, {}, {"messages": []}, {"messages": [{"status": "0"}]}, {"messages": [{"status": "0"}, {"status": "7"}]}],
)
def test_an_answer_that_says_nothing_definite_is_unknown(body: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        mapping.effect(body)


@pytest.mark.parametrize("phone", [None, "", "+12", "+44 7700", "+٤٤٧٧٠٠٩٠٠١٢٣"])
async def test_without_a_number_nothing_is_sent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], phone: str | None
) -> None:
    with pytest.raises(InvalidInput):
        await sandbox.client("vonage", **ACCOUNT).send(call(sms(phone=phone)))
    assert await sandbox.requests("vonage") == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400),
    phone=st.from_regex(r"\A\+[1-9][0-9]{6,14}\Z"),
)
async def test_every_request_is_valid_by_the_contract(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any], text: str, phone: str
) -> None:
    await sandbox.reset()
    await sandbox.client("vonage", **ACCOUNT).send(call(sms(text, phone)))
    assert await assert_contract("vonage", "vonage-sms") == 1
