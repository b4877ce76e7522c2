"""VSCO Workspace's REST hooks: known by the token in their URL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.vsco import sandbox as standin
from wedsync.vendors.vsco.webhook import parse, verify

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
URL = "https://wedsync.example/api/integrations/webhooks/vsco"


@pytest.mark.parametrize(
    ("query", "authentic"),
    [
        ("?token=new", True),
        ("?a=b&token=old", True),
        ("?token=other", False),
        ("?token=", False),
        ("?token=new&token=new", False),
        ("", False),
        ("?token=n%C3%A9w", False),
    ],
)
def test_only_the_token_of_our_url_is_authentic(query: str, authentic: bool) -> None:
    assert verify(b"{}", {}, URL + query, ["new", "old", ""], NOW) is authentic


@settings(max_examples=30)
@given(url=st.text())
def test_malformed_urls_are_refused_and_never_raise(url: str) -> None:
    assert not verify(b"", {}, url, ["a secret that is not drawn"], NOW)


@pytest.fixture
def context() -> FakeContext:
    context = FakeContext("vsco", lambda: NOW, lambda *_: None, URL, "s3cret=/+")
    context.objects["job1"] = {"kind": "job", "id": "job1", "stage": "lead", "name": "Wedding", "modified": "x"}
    return context


def test_a_booked_order_confirms_its_job(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit("order.booked", "job1", False)
    assert verify(body, headers, url, [context.webhook_secret], NOW)
    (told,) = parse(body, headers)
    assert (told.type, told.vendor_type, told.object_id) == ("booking.confirmed", "order.booked", "job1")
    assert told.occurred_at == NOW
    assert context.objects["job1"]["stage"] == "booked"


def test_a_booking_that_was_taken_back_and_made_again_is_another_one_and_an_edit_is_not() -> None:
    order = {"id": "o1", "jobId": "j1", "bookedOn": "2027-06-01", "modified": "2027-06-01T12:00:00Z"}
    edited = {**order, "modified": "2027-06-02T12:00:00Z"}
    again = {**edited, "bookedOn": "2027-06-03"}
    ids = [parse(json.dumps(one).encode(), {})[0].event_id for one in (order, edited, again)]
    assert ids[0] == ids[1] != ids[2]


def test_a_bad_token_is_refused(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit("order.booked", None, True)
    assert not verify(body, headers, url, [context.webhook_secret], NOW)
    assert context.objects["job1"]["stage"] == "lead"


def test_other_events_can_be_told_apart(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    _, headers, body = emit("job.created", None, False)
    (told,) = parse(body, headers)
    assert (told.type, told.vendor_type, told.object_id) == ("other", "job.created", "job1")
    for wrong in (("job.deleted", "job1"), ("order.booked", "job2")):
        with pytest.raises(KeyError):
            emit(*wrong, False)


@pytest.mark.parametrize(
    ("resource", "vendor_type"),
    [
        ({"id": "p1", "amount": 100, "jobId": "job1"}, "payment.created"),
        ({"id": "c1", "kind": "person"}, "contact.created"),
    ],
)
def test_payments_and_contacts_are_other_events(resource: dict[str, Any], vendor_type: str) -> None:
    (told,) = parse(json.dumps(resource).encode(), {})
    assert (told.type, told.vendor_type) == ("other", vendor_type)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{}", b'{"id": 3, "stage": "lead"}', b'{"id": "o", "bookedOn": null, "jobId": "j"}']
)
def test_a_body_that_is_no_resource_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body, {})
