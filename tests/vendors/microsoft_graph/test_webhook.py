"""Graph's change notifications: the published vectors, the stand-in's, the handshake."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.microsoft_graph import sandbox as standin
from wedsync.vendors.microsoft_graph.webhook import handshake, parse, verify

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "client-state"


def test_the_published_vectors_are_judged_as_published(shared_vectors: Path) -> None:
    vectors = [
        one
        for one in json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
        if one["source"] == "microsoft-graph"
    ]
    assert vectors
    for one in vectors:
        body = base64.b64decode(one["body"])
        assert verify(body, one["headers"], one["url"], [one["secret_or_key"]], NOW) is one["valid"], one["id"]
        assert not verify(body, one["headers"], one["url"], ["another"], NOW)
        (told,) = parse(body, {})
        assert (told.type, told.vendor_type) == ("other", "created")


@pytest.fixture
def context() -> FakeContext:
    context = FakeContext("microsoft_graph", lambda: NOW, lambda *_: None, "https://wedsync.example/hook", SECRET)
    context.objects["AAMk1"] = {"id": "AAMk1", "user": "me", "changeKey": "ck1"}
    return context


def test_the_stand_ins_notification_verifies_and_parses(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit("updated", "AAMk1", False)
    assert verify(body, headers, url, ["old", SECRET], NOW)
    (told,) = parse(body, headers)
    assert (told.type, told.vendor_type, told.object_id) == ("calendar.changed", "updated", "AAMk1")
    assert told.facts == {"etag": 'W/"ck1"'}
    _, _, bad = emit("updated", None, True)
    assert not verify(bad, headers, url, [SECRET], NOW)


def test_one_foreign_notification_spoils_the_batch() -> None:
    batch = {"value": [{"clientState": SECRET}, {"clientState": "other"}]}
    assert not verify(json.dumps(batch).encode(), {}, "", [SECRET], NOW)
    assert not verify(json.dumps({"value": [{"clientState": ""}]}).encode(), {}, "", [""], NOW)


def test_a_validation_token_is_answered_as_plain_text() -> None:
    token = "Validation: Testing client application <b>é"
    assert handshake(b"", {}, {"validationToken": token}, []) == (200, "text/plain", token.encode())
    assert handshake(b"", {}, {}, []) is None
    assert handshake(b'{"value":[]}', {}, {"validationToken": "t"}, []) is None
    assert handshake(b"", {}, {"validationToken": "t" * 5000}, []) is None


@settings(max_examples=50)
@given(body=st.binary() | st.text().map(lambda text: json.dumps({"value": [{"clientState": text}]}).encode()))
def test_malformed_input_is_refused_and_never_raises(body: bytes) -> None:
    assert not verify(body, {}, "", ["a secret that is not drawn"], NOW)


def test_changes_without_an_etag_are_told_apart_by_what_else_is_said_and_repetitions_are_known() -> None:
    item = {"subscriptionId": "s", "changeType": "updated", "resource": "Users/x/Events/y", "resourceData": {"id": "y"}}
    later = {**item, "subscriptionExpirationDateTime": "2027-06-02T12:00:00Z"}
    tagged = [{**item, "resourceData": {"id": "y", "@odata.etag": f'W/"{tag}"'}} for tag in "ab"]
    batch = [item, dict(reversed(item.items())), later, *tagged, tagged[1]]
    ids = [told.event_id for told in parse(json.dumps({"value": batch}).encode(), {})]
    assert ids[0] == ids[1]
    assert ids[4] == ids[5]
    assert len(set(ids)) == 4


def test_a_lifecycle_notification_is_other() -> None:
    item = {"subscriptionId": "s", "clientState": SECRET, "lifecycleEvent": "missed", "resource": "Users/x/Events/y"}
    (told,) = parse(json.dumps({"value": [item]}).encode(), {})
    assert (told.type, told.vendor_type) == ("other", "missed")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"value": []}', b'{"value": [1]}'])
def test_a_body_that_is_no_batch_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body, {})
