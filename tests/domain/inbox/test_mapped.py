"""Messages of sources that are no vendors of ours, read by where their parts stand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wedsync.domain.inbox.mapped import parse_mapped
from wedsync.domain.inbox.source import SourceConfig
from wedsync.domain.vendors.event import VendorEvent

META = SourceConfig(scheme="meta")


def read(post: Any, config: SourceConfig = META) -> list[VendorEvent]:
    return parse_mapped(config, json.dumps(post).encode(), {})


def status(message: str, word: str, phone: str = "393331112233") -> dict[str, str]:
    return {"id": message, "status": word, "timestamp": "1793923200", "recipient_id": phone}


def change(**value: Any) -> dict[str, Any]:
    return {"field": "messages", "value": {"messaging_product": "whatsapp", **value}}


def whatsapp(*entries: list[dict[str, Any]]) -> dict[str, Any]:
    numbered = [{"id": f"account-{number}", "changes": changes} for number, changes in enumerate(entries)]
    return {"object": "whatsapp_business_account", "entry": numbered}


def test_each_status_and_message_of_metas_batch_is_an_event_of_its_own() -> None:
    batch = whatsapp(
        [change(statuses=[status("m1", "sent"), status("m1", "delivered", "1"), status("m2", "failed", "2")])],
        [
            change(messages=[{"id": "m3", "type": "text", "from": "3"}], contacts=[{"wa_id": "3"}]),
            change(statuses=[status("m4", "read", "4")], messages=[{"id": "m5", "type": "image", "from": "5"}]),
        ],
    )
    assert [(one.object_id, one.vendor_type, one.type) for one in read(batch)] == [
        ("m1", "sent", "other"),
        ("m1", "delivered", "message.delivered"),
        ("m2", "failed", "message.failed"),
        ("m3", "messages", "other"),
        ("m4", "read", "message.delivered"),
        ("m5", "messages", "other"),
    ]
    assert [one.contacts[0] for one in read(batch)[1:]] == ["1", "2", "3", "4", "5"]
    assert len({one.event_id for one in read(batch)}) == 6


def test_what_meta_sends_again_in_another_batch_is_the_same_event() -> None:
    first, second = read(whatsapp([change(statuses=[status("m1", "sent"), status("m2", "failed")])]))
    other, again = read(
        whatsapp([change(statuses=[status("m9", "sent")])], [change(statuses=[status("m2", "failed")])])
    )
    assert again.event_id == second.event_id
    assert len({first.event_id, second.event_id, other.event_id}) == 3


def test_metas_changes_without_an_id_are_told_apart_and_known_again() -> None:
    page = {"object": "page", "entry": [{"id": "1", "changes": [{"field": "feed"}, {"field": "feed"}]}, {"id": "2"}]}
    found = read(page)
    assert [(one.object_id, one.vendor_type) for one in found] == [("1", "feed"), ("1", "feed"), ("2", "page")]
    assert len({one.event_id for one in found}) == 3
    assert [one.event_id for one in read(page)] == [one.event_id for one in found]
    chat = {"object": "page", "entry": [{"id": "1", "messaging": [{"message": {"mid": "a"}}, {"message": {}}]}]}
    assert len({one.event_id for one in read(chat)}) == 2


@pytest.mark.parametrize(
    "post",
    [
        {},
        {"entry": []},
        {"entry": {}},
        {"entry": 7},
        {"entry": [None]},
        {"entry": [{"changes": "x"}]},
        {"entry": [{"changes": [{"value": {"statuses": {}}}]}]},
        {"entry": [{"changes": [{"value": {"statuses": [[]]}}]}]},
    ],
)
def test_a_post_of_metas_in_another_shape_is_one_event(post: Any) -> None:
    assert len(read(post)) == 1


def test_a_sources_own_paths_are_read_in_each_of_metas_parts() -> None:
    paths = {"type": "entry.0.changes.0.field", "object_id": "entry.0.changes.0.value.statuses.0.id"}
    config = SourceConfig.model_validate({"scheme": "meta", "paths": paths})
    found = read(
        whatsapp([change(statuses=[status("m1", "sent"), status("m1", "failed"), status("m2", "sent")])]), config
    )
    assert [one.object_id for one in found] == ["m1", "m1", "m2"]
    assert len({one.event_id for one in found}) == 3


def test_other_sources_lists_are_one_event() -> None:
    config = SourceConfig(scheme="zapier")
    assert len(read({"type": "x", "entry": [{"changes": [{}, {}]}]}, config)) == 1
