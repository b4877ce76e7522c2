"""The generic vendor's webhooks: what its stand-in signs verifies here, and nothing else does."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.generic import sandbox as standin
from wedsync.vendors.generic.webhook import parse, verify

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BODY = b'{"id":"evt_1"}'
SECRET = "s3cret"


def signed(body: bytes = BODY, secret: str = SECRET, at: datetime = NOW) -> dict[str, str]:
    stamp = int(at.timestamp())
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"x-signature": f"t={stamp},v1={digest}"}


def test_a_message_signed_with_any_active_secret_is_authentic() -> None:
    assert verify(BODY, signed(), "", ["old", SECRET], NOW)
    assert not verify(BODY, signed(), "", ["old"], NOW)
    assert not verify(BODY, signed(), "", [], NOW)


def test_a_changed_body_is_refused() -> None:
    assert not verify(BODY + b" ", signed(), "", [SECRET], NOW)


@pytest.mark.parametrize(("seconds", "fresh"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_the_window_is_300_seconds_both_ways(seconds: int, fresh: bool) -> None:
    assert verify(BODY, signed(at=NOW - timedelta(seconds=seconds)), "", [SECRET], NOW) is fresh


def test_an_empty_secret_verifies_nothing() -> None:
    assert not verify(BODY, signed(secret=""), "", [""], NOW)


@settings(max_examples=50)
@given(header=st.text(), body=st.binary())
def test_malformed_input_is_refused_and_never_raises(header: str, body: bytes) -> None:
    assert not verify(body, {"X-Signature": header}, "", [SECRET], NOW)


def test_two_times_are_refused() -> None:
    header = signed()["x-signature"]
    assert not verify(BODY, {"x-signature": f"{header},t=1"}, "", [SECRET], NOW)


@pytest.fixture
def context() -> FakeContext:
    return FakeContext("generic", lambda: NOW, lambda *_: None, "http://127.0.0.1:9/hook", SECRET)


def _booking(context: FakeContext) -> str:
    context.objects["bk_1"] = {
        "id": "bk_1", "account": "villa", "reference": "ref-1", "status": "pending", "answers_at": NOW,
        "wedding": "wedding-1", "version": 1,
    }  # fmt: skip
    return "bk_1"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("booking.confirmed", "booking.confirmed"),
        ("booking.declined", "booking.declined"),
        ("booking.changed", "other"),
    ],
)
def test_the_stand_ins_webhook_verifies_and_parses(context: FakeContext, event: str, kind: str) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit(event, _booking(context), False)
    assert verify(body, headers, url, [SECRET], NOW)
    (told,) = parse(body, headers)
    assert (told.type, told.vendor_type, told.object_id, told.wedding_id) == (kind, event, "bk_1", "wedding-1")
    assert told.facts["reference"] == "ref-1"
    assert told.occurred_at == NOW


def test_the_stand_ins_bad_signature_is_refused(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit("booking.confirmed", _booking(context), True)
    assert not verify(body, headers, url, [SECRET], NOW)
    assert context.objects["bk_1"]["status"] == "pending"


def test_a_webhook_about_an_unknown_booking_cannot_be_asked_for(context: FakeContext) -> None:
    emit: Callable[[str, str | None, bool], object] | None = standin.build(context).emit
    assert emit is not None
    with pytest.raises(KeyError):
        emit("booking.confirmed", "bk_unknown", False)


def test_the_stand_in_refuses_a_request_and_a_confirmation_only(context: FakeContext) -> None:
    refuse = standin.build(context).refuse
    request = Request({"type": "http", "headers": []})
    answers = {name: refuse(name, request) for name in ("request", "confirm", "change", "cancel", "find", "look")}
    assert {name for name, answer in answers.items() if answer is not None} == {"request", "confirm"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", json.dumps({"id": "e", "type": "t"}).encode()])
def test_a_body_that_is_no_event_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body, {})
