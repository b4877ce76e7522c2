"""Read plan files, YAML 1.2 or JSON, with the line of every field.

Safer and stricter than YAML 1.1: only `true`, `false`, `null`, `~` and numbers as JSON writes them are anything but
text, so `no`, `on`, `16:00`, `2027-06-19` and `+390318125551` stay what they look like. A key given twice is an error,
tags other than `!!str` too. Anchors, aliases and `<<` work within bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from pydantic import JsonValue
from yaml import events

from wedsync.domain.plans.errors import field_path
from wedsync.domain.plans.load import MAX_DEPTH, plan_from_json
from wedsync.domain.plans.plan import Plan, PlanError
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest

MAX_BYTES = 1_048_576
#: Values in a file, aliases expanded.
MAX_VALUES = 50_000
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: dict[str, JsonValue] = {"": None, "~": None, "null": None, "true": True, "false": False}
_STR_TAGS = (None, "!", "tag:yaml.org,2002:str")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Fault(Exception):
    def __init__(self, line: int, code: str, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.line, self.code, self.detail, self.field = line, code, detail, field


@dataclass
class _Node:
    line: int
    #: A scalar's value; None for lists and objects.
    scalar: JsonValue = None
    items: list[_Node] | None = None
    #: Key → (the key's line, the value).
    entries: dict[str, tuple[int, _Node]] | None = None
    size: int = 1


@dataclass
class _Reader:
    """Builds nodes from YAML's events."""

    stream: Iterator[events.Event]
    anchors: dict[str, _Node] = field(default_factory=dict)

    def document(self) -> _Node | None:
        """Return the only document of the stream; None when it is empty."""
        root: _Node | None = None
        for event in self.stream:
            if isinstance(event, events.DocumentStartEvent):
                if root is not None:
                    raise _Fault(_line(event), "syntax", "a plan file holds one document")
                root = self._node(next(self.stream), ())
        return root

    def _node(self, event: events.Event, loc: tuple[str | int, ...]) -> _Node:
        if len(loc) > MAX_DEPTH:
            raise _Fault(_line(event), "too_deep", f"nested deeper than {MAX_DEPTH} levels", field_path(loc[:4]))
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self.anchors:
                raise _Fault(_line(event), "syntax", f"alias *{event.anchor} has no anchor before it", field_path(loc))
            return self.anchors[event.anchor]
        if isinstance(event, events.ScalarEvent):
            node = _Node(_line(event), scalar=_scalar(event, loc))
        elif isinstance(event, events.SequenceStartEvent):
            node = self._list(event, loc)
        else:
            assert isinstance(event, events.MappingStartEvent)  # noqa: S101 - the parser's grammar has no fourth node
            node = self._object(event, loc)
        if node.size > MAX_VALUES:
            raise _Fault(_line(event), "too_large", f"more than {MAX_VALUES} values", field_path(loc))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _list(self, start: events.SequenceStartEvent, loc: tuple[str | int, ...]) -> _Node:
        _refuse_tag(start, loc)
        node = _Node(_line(start), items=[])
        items: list[_Node] = []
        while not isinstance(event := next(self.stream), events.SequenceEndEvent):
            item = self._node(event, (*loc, len(items)))
            items.append(item)
            node.size += item.size
            _bound(node, loc)
        node.items = items
        return node

    def _object(self, start: events.MappingStartEvent, loc: tuple[str | int, ...]) -> _Node:
        _refuse_tag(start, loc)
        node = _Node(_line(start))
        entries: dict[str, tuple[int, _Node]] = {}
        merged: list[_Node] = []
        while not isinstance(event := next(self.stream), events.MappingEndEvent):
            if not isinstance(event, events.ScalarEvent):
                raise _Fault(_line(event), "syntax", "a key must be plain text", field_path(loc))
            key = event.value
            value = self._node(next(self.stream), (*loc, key))
            node.size += value.size
            _bound(node, loc)
            if key == "<<" and event.implicit[0]:
                merged.extend(_merge_sources(value, event, loc))
            elif key in entries:
                first = entries[key][0]
                detail = f"key {key!r} is given twice, first on line {first}"
                raise _Fault(_line(event), "duplicate_key", detail, field_path((*loc, key)))
            else:
                entries[key] = (_line(event), value)
        for source in merged:
            for key, entry in (source.entries or {}).items():
                entries.setdefault(key, entry)
        node.entries = entries
        return node


def _bound(node: _Node, loc: tuple[str | int, ...]) -> None:
    if node.size > MAX_VALUES:
        raise _Fault(node.line, "too_large", f"more than {MAX_VALUES} values", field_path(loc))


def _merge_sources(value: _Node, event: events.Event, loc: tuple[str | int, ...]) -> list[_Node]:
    sources = value.items if value.items is not None else [value]
    if any(source.entries is None for source in sources):
        raise _Fault(_line(event), "syntax", "'<<' takes an object or a list of objects", field_path(loc))
    return sources


def _refuse_tag(event: events.CollectionStartEvent, loc: tuple[str | int, ...]) -> None:
    if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise _Fault(_line(event), "syntax", f"tag {event.tag} is not allowed", field_path(loc))


def _scalar(event: events.ScalarEvent, loc: tuple[str | int, ...]) -> JsonValue:
    text: str = event.value
    if event.tag not in _STR_TAGS:
        raise _Fault(_line(event), "syntax", f"tag {event.tag} is not allowed", field_path(loc))
    if not event.implicit[0]:
        return text
    if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return _WORDS[text.lower()]
    if len(text) <= 40 and _NUMBER.fullmatch(text):
        return float(text) if any(mark in text for mark in ".eE") else int(text)
    return text


def _line(event: events.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 0


def _unpack(node: _Node, loc: tuple[str | int, ...], line: int, lines: dict[str, int]) -> JsonValue:
    lines[field_path(loc)] = line
    if node.items is not None:
        return [_unpack(item, (*loc, index), item.line, lines) for index, item in enumerate(node.items)]
    if node.entries is not None:
        return {key: _unpack(value, (*loc, key), at, lines) for key, (at, value) in node.entries.items()}
    return node.scalar


def read_plan_lines(text: str, file: str) -> tuple[Plan | None, list[PlanError], dict[str, int]]:
    """Read as `read_plan` does, and return the 1-based line of each dotted field path, for `check_plan`."""

    def failed(line: int, code: str, detail: str, field: str = "") -> tuple[None, list[PlanError], dict[str, int]]:
        return None, [PlanError(file=file, line=line, field=field, code=code, detail=detail)], {}

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return failed(0, "too_large", f"a plan file is at most {MAX_BYTES} bytes")
    try:
        root = _Reader(yaml.parse(text.removeprefix("\ufeff"), Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = "; ".join(part for part in (error.context, error.problem) if part)
        return failed(mark.line + 1 if mark else 0, "syntax", detail or "not YAML")
    except (yaml.YAMLError, UnicodeError) as error:
        return failed(0, "syntax", f"not YAML: {str(error).splitlines()[0]}")
    except _Fault as fault:
        return failed(fault.line, fault.code, fault.detail, fault.field)
    if root is None or root.entries is None:
        return failed(root.line if root else 0, "syntax", "a plan is an object: version, wedding, services, steps")
    lines: dict[str, int] = {}
    data = _unpack(root, (), root.line, lines)
    assert isinstance(data, dict)  # noqa: S101 - `entries` is set
    plan, errors = plan_from_json(data, lines=lines, file=file)
    return plan, errors, lines


def read_plan(text: str, file: str) -> tuple[Plan | None, list[PlanError]]:
    """Return the plan in YAML or JSON `text`, or everything wrong with its shape, with `file` and lines; never raises.

    `check_plan` checks what must hold between the parts; `check_plan_file` does both.
    """
    plan, errors, _ = read_plan_lines(text, file)
    return plan, errors


def check_plan_file(text: str, file: str, manifests: Mapping[str, Manifest]) -> tuple[Plan | None, list[PlanError]]:
    """Return the plan in `text` when it is valid against the installed vendors, else None and all errors in order."""
    plan, errors, lines = read_plan_lines(text, file)
    if plan is None:
        return None, errors
    errors = check_plan(plan, manifests, lines=lines, file=file)
    return (None if errors else plan), errors
