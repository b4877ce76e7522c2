"""SendGrid's signature, against its published vectors, and the batches it signs."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.sendgrid import sandbox as stand_in
from wedsync.vendors.sendgrid import webhook

NOW = datetime.fromtimestamp(1_700_000_000, UTC)
URL = "https://studio.example/hooks"
PAIR = ec.generate_private_key(ec.SECP256R1())


def shown(key: Any) -> str:
    """A public key as SendGrid shows it."""
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def signed(body: bytes, at: datetime = NOW) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    signature = PAIR.sign(stamp.encode() + body, ec.ECDSA(SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
    }


def test_every_published_vector_gets_its_verdict(shared_vectors: Path) -> None:
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    ours = [vector for vector in vectors if vector["source"] == "sendgrid"]
    wrong = [
        vector["id"]
        for vector in ours
        if webhook.verify(
            base64.b64decode(vector["body"]),
            vector["headers"],
            vector["url"],
            [vector["secret_or_key"]],
            datetime.fromtimestamp(vector["now"], UTC),
        )
        is not vector["valid"]
    ]
    assert len(ours) >= 5
    assert wrong == []


def test_any_of_the_keys_will_do_and_the_exact_bytes_count() -> None:
    key = shown(PAIR.public_key())
    other = shown(ec.generate_private_key(ec.SECP256R1()).public_key())
    unfit = shown(rsa.generate_private_key(65537, 2048).public_key())
    body = b"[]\r\n"
    assert webhook.verify(body, signed(body), URL, [other, unfit, "?", key], NOW)
    assert not webhook.verify(body.strip(), signed(body), URL, [key], NOW)
    assert not webhook.verify(body, signed(body), URL, [other, unfit, ""], NOW)
    assert not webhook.verify(body, signed(body), URL, [], NOW)


@pytest.mark.parametrize(("age", "fresh"), [(-301, False), (-300, True), (86_400, True), (86_401, False)])
def test_a_batch_counts_for_a_day(age: int, fresh: bool) -> None:
    headers = signed(b"[]")
    assert webhook.verify(b"[]", headers, URL, [shown(PAIR.public_key())], NOW + timedelta(seconds=age)) is fresh


@settings(max_examples=50, deadline=None)
@given(
    body=st.binary(),
    signature=st.one_of(st.text(), st.binary().map(lambda raw: base64.b64encode(raw).decode())),
    stamp=st.one_of(st.text(), st.just(str(int(NOW.timestamp())))),
    secret=st.one_of(st.text(), st.just(shown(PAIR.public_key())), st.just("whsec_x")),
)
def test_malformed_input_is_refused_without_raising(body: bytes, signature: str, stamp: str, secret: str) -> None:
    headers = {
        "x-twilio-email-event-webhook-signature": signature,
        "x-twilio-email-event-webhook-timestamp": stamp,
    }
    assert webhook.verify(body, headers, URL, [secret], NOW) is False


def test_a_batch_becomes_one_event_each() -> None:
    batch = [
        {
            "email": "ada@example.com",
            "timestamp": 1_700_000_000,
            "event": kind,
            "sg_event_id": f"e{number}",
            "sg_message_id": tail,
            "wedding": "w1",
            "step": "s1",
        }
        for number, (kind, tail) in enumerate(
            [
                ("delivered", "abc.filterdrecv-1.0"),
                ("bounce", "abc.def.recvd-1.0"),
                ("dropped", "abc"),
                ("spamreport", ""),
                ("open", "abc.filter0001.16648.5515E0B88.0"),
            ]
        )
    ]
    events = webhook.parse(json.dumps(batch).encode(), {})
    assert [event.type for event in events] == [
        "message.delivered",
        "message.failed",
        "message.failed",
        "message.failed",
        "other",
    ]
    assert [event.object_id for event in events] == ["abc", "abc.def", "abc", None, "abc"]
    assert [event.event_id for event in events] == ["e0", "e1", "e2", "e3", "e4"]
    assert {(event.wedding_id, event.step_id, event.occurred_at) for event in events} == {("w1", "s1", NOW)}
    assert "ada@example.com" not in str(events)


def test_events_without_an_id_are_named_by_their_content() -> None:
    one, same, other = webhook.parse(b'[{"event":"a"},{"event":"a"},{"event":"b"}]', {})
    assert one.event_id == same.event_id != other.event_id


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b"[{}]", b"\xff", b'[{"event":"a","timestamp":99999999999999999}]', b"[" * 100_000]
)
def test_what_is_not_a_batch_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(body, {})


@pytest.mark.parametrize("bad", [False, True])
def test_the_stand_ins_batches_are_signed(bad: bool) -> None:
    secret = "whsec_d2Vkc3luYy1sb2NhbC13ZWJob29rLXNlbmRncmlk"
    context = FakeContext(
        vendor="sendgrid", now=lambda: NOW, send=lambda *_: None, webhook_url=URL, webhook_secret=secret
    )
    emit = stand_in.build(context).emit
    assert emit is not None
    with pytest.raises(KeyError):
        emit("delivered", None, bad)
    context.objects["abc"] = {"to": "ada@example.com", "arguments": {"wedding": "w1", "step": "s1"}}
    url, headers, body = emit("bounce", None, bad)
    assert webhook.verify(body, headers, url, [secret], NOW) is not bad
    (event,) = webhook.parse(body, headers)
    assert (event.type, event.object_id, event.wedding_id) == ("message.failed", "abc", "w1")
