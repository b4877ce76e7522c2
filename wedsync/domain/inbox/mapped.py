"""Read messages of sources that are not our vendors, by the paths of their parts. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from wedsync.domain.errors import InvalidInput
from wedsync.domain.inbox.clean import short_id
from wedsync.domain.inbox.meta import parts_of
from wedsync.domain.inbox.source import KNOWN_TYPES, PayloadPaths, SourceConfig
from wedsync.domain.vendors.event import VendorEvent

_MAX_FIELDS = 1000
_META = "meta"
#: Of one of Meta's parts: the paths of objects with an id, and of the field that tells their kinds of news apart.
_META_NAMED = (
    ("entry.0.changes.0.value.statuses.0.id", "entry.0.changes.0.value.statuses.0.status"),
    ("entry.0.changes.0.value.messages.0.id", "entry.0.changes.0.value.messages.0.type"),
)
_HEADER = "header:"
#: A unix time beyond this is in milliseconds (the year 5138 in seconds).
_MILLISECONDS_FROM = 100_000_000_000

#: Paths of the parts by scheme, as the sources document them.
PATHS: dict[str, PayloadPaths] = {
    "standard_webhooks": PayloadPaths(id="", object_id="data.id"),
    "svix": PayloadPaths(id="", object_id="data.id"),
    "slack": PayloadPaths(
        id="event_id|trigger_id", type="event.type|type|command", object_id="event.channel", occurred_at="event_time"
    ),
    "zoom": PayloadPaths(id="", type="event", object_id="payload.object.id", occurred_at="event_ts"),
    "github": PayloadPaths(
        id="header:X-GitHub-Delivery", type="header:X-GitHub-Event", object_id="repository.full_name", occurred_at=""
    ),
    "meta": PayloadPaths(
        id="",
        type="entry.0.changes.0.value.statuses.0.status|entry.0.changes.0.field|object",
        object_id="entry.0.changes.0.value.statuses.0.id|entry.0.changes.0.value.messages.0.id|entry.0.id",
        occurred_at="entry.0.changes.0.value.statuses.0.timestamp|entry.0.time",
        phone="entry.0.changes.0.value.statuses.0.recipient_id|entry.0.changes.0.value.messages.0.from",
    ),
    "zapier": PayloadPaths(type="type|event", email="email", phone="phone"),
}
#: Types of a source that need no configuration.
_TYPES: dict[str, dict[str, str]] = {
    "meta": {"delivered": "message.delivered", "read": "message.delivered", "failed": "message.failed"},
}


def paths_of(config: SourceConfig) -> PayloadPaths:
    """Return the paths of the parts of the source's messages."""
    return config.paths or PATHS.get(config.scheme) or PayloadPaths()


def has_header_id(config: SourceConfig) -> bool:
    """Tell whether a header may name the source's events."""
    return any(_is_header(path) for path in paths_of(config).id.split("|"))


def parse_mapped(
    config: SourceConfig, body: bytes, headers: Mapping[str, str], signed_id: str | None = None
) -> list[VendorEvent]:
    """Parse the events in `body`, JSON or a form: one, or all of a batch of Meta's.

    Raises InvalidInput, ValueError or RecursionError for anything else. `signed_id` is the message's id if the scheme
    signs one: then no header that names another is believed.
    """
    document = _document(body, headers)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if config.scheme != _META:
        return [_event(config, document, headers, signed_id, signed_id or digest)]
    return [
        _event(config, part, headers, signed_id, _meta_id(part) or (f"{digest}:{index}" if index else digest))
        for index, part in enumerate(parts_of(document))
    ]


def _event(
    config: SourceConfig, document: Any, headers: Mapping[str, str], signed_id: str | None, unnamed_id: str
) -> VendorEvent:
    paths = paths_of(config)
    id_paths = paths.id if signed_id is None else "|".join(p for p in paths.id.split("|") if not _is_header(p))

    def part(path: str) -> Any:
        return _part(document, headers, path)

    vendor_type = _text(part(paths.type)) or "unknown"
    return VendorEvent(
        source=config.vendor or config.scheme,
        event_id=_text(part(id_paths)) or unnamed_id,
        type=our_type(config, vendor_type),
        vendor_type=vendor_type[:200],
        object_id=_text(part(paths.object_id)),
        wedding_id=_text(part(paths.wedding)),
        step_id=_text(part(paths.step)),
        occurred_at=moment(part(paths.occurred_at)),
        contacts=tuple(filter(None, (_text(part(paths.phone)), _text(part(paths.email))))),
    )


def _meta_id(document: Any) -> str | None:
    """Return the id by which one of Meta's parts is known when it comes again, even in another batch."""
    for paths in _META_NAMED:
        found, word = (_text(_walk(document, path)) for path in paths)
        if found and word:
            return short_id(f"{found}:{word}")
    return None


def our_type(config: SourceConfig, vendor_type: str) -> str:
    """Translate a source's type: as configured, as the scheme documents, or the same if we know it; else `other`."""
    mapped_type = config.type_map.get(vendor_type) or _TYPES.get(config.scheme, {}).get(vendor_type)
    return mapped_type or (vendor_type if vendor_type in KNOWN_TYPES else "other")


def moment(value: Any) -> datetime | None:
    """Parse an instant in UTC from unix seconds, milliseconds or ISO 8601 with an offset; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:18])
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value >= _MILLISECONDS_FROM else value, UTC)
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _document(body: bytes, headers: Mapping[str, str]) -> Any:
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        fields = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
        return json.loads(fields["payload"]) if set(fields) == {"payload"} else fields
    document = json.loads(body)
    if not isinstance(document, dict):
        raise InvalidInput("the body is no JSON object", field="body")
    return document


def _part(document: Any, headers: Mapping[str, str], paths: str) -> Any:
    for path in filter(None, paths.split("|")):
        if _is_header(path):
            wanted = path.removeprefix(_HEADER).lower()
            found: Any = next((value for name, value in headers.items() if name.lower() == wanted), None)
        else:
            found = _walk(document, path)
        if found not in (None, ""):
            return found
    return None


def _is_header(path: str) -> bool:
    return path.startswith(_HEADER)


def _walk(document: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(document, dict):
            document = document.get(name)
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value) or None
