"""Make what a vendor sent storable: Postgres refuses NUL and lone surrogates in text, and long keys of an index."""

from __future__ import annotations

import hashlib

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent

#: A longer id is no vendor's, and would not fit an index entry.
MAX_EVENT_ID_LENGTH = 500
#: A longer object id is no vendor's, and would not fit an index entry (2,704 bytes with source and topic).
MAX_OBJECT_ID_LENGTH = 500
_REPLACEMENT = "\ufffd"


def clean_text(text: str) -> str:
    """Replace NUL and lone surrogates in `text` by U+FFFD."""
    if "\x00" not in text and text.isascii():
        return text
    return "".join(_REPLACEMENT if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def clean_json(value: JsonValue) -> JsonValue:
    """Clean every text in `value`, keys too."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_json(item) for key, item in value.items()}
    return value


def short_id(text: str) -> str:
    """Return `text`, or `sha256:` and its digest if longer than `MAX_OBJECT_ID_LENGTH`: still one for each object."""
    return text if len(text) <= MAX_OBJECT_ID_LENGTH else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def clean_event(event: VendorEvent) -> VendorEvent:
    """Clean the event's texts and contacts, shorten its object's id, and drop its time when the zone is unknown.

    Raises InvalidInput when it has no id that can be kept, RecursionError when its facts are nested too deeply.
    """
    if not 0 < len(event.event_id) <= MAX_EVENT_ID_LENGTH:
        raise InvalidInput("an event has no usable id", field="body")
    texts = ("event_id", "type", "vendor_type", "wedding_id", "step_id")
    changes: dict[str, object] = {}
    for name in texts:
        value = getattr(event, name)
        if value is not None:
            changes[name] = clean_text(value)
    if event.object_id is not None:
        changes["object_id"] = short_id(clean_text(event.object_id))
    if event.occurred_at is not None and event.occurred_at.tzinfo is None:
        # A time of an unknown zone is useless: it can't be compared with others.
        changes["occurred_at"] = None
    changes["contacts"] = tuple(clean_text(contact) for contact in event.contacts)
    changes["facts"] = {clean_text(key): clean_json(value) for key, value in event.facts.items()}
    return event.model_copy(update=changes)
