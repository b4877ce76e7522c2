"""Split Meta's posts: one holds many events, of several accounts. Pure.

https://developers.facebook.com/docs/graph-api/webhooks/getting-started#event-notifications
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Names = tuple[str, ...]

#: The nesting, from the post down to a status or message; Messenger has no `changes`.
_LEVELS: tuple[Names, ...] = (("entry",), ("changes", "messaging", "standby"), ("value",), ("statuses", "messages"))


def parts_of(post: Any) -> Iterator[Any]:
    """Yield each event of a post, in order and shaped as the post; a post of another shape is one."""
    return _apart(post, _LEVELS)


def _apart(node: Any, levels: Sequence[Names]) -> Iterator[Any]:
    held = {name: node[name] for name in levels[0] if node.get(name)} if levels and isinstance(node, dict) else {}
    if not held:
        yield node
        return
    rest = {name: value for name, value in node.items() if name not in held}
    for name, value in held.items():
        for one in value if isinstance(value, list) else [value]:
            for part in _apart(one, levels[1:]):
                yield {**rest, name: [part] if isinstance(value, list) else part}
