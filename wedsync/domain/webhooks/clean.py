"""Makes what a vendor sent storable: Postgres refuses NUL and lone surrogates in text, which JSON allows."""

from __future__ import annotations

from pydantic import JsonValue

from wedsync.domain.routing.vendor import VendorEvent

_REPLACEMENT = "\ufffd"


def clean_text(text: str) -> str:
    """`text` with NUL and lone surrogates replaced by U+FFFD."""
    if "\x00" not in text and text.isascii():
        return text
    return "".join(_REPLACEMENT if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def clean_json(value: JsonValue) -> JsonValue:
    """`value` with every text in it cleaned, keys too."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_json(item) for key, item in value.items()}
    return value


def clean_event(event: VendorEvent) -> VendorEvent:
    """`event` with every text in it cleaned; raises RecursionError when its facts are nested too deeply."""
    texts = ("event_id", "type", "vendor_type", "object_id", "wedding_id", "step_id")
    changes: dict[str, object] = {}
    for name in texts:
        value = getattr(event, name)
        if value is not None:
            changes[name] = clean_text(value)
    changes["facts"] = {clean_text(key): clean_json(value) for key, value in event.facts.items()}
    return event.model_copy(update=changes)
