"""Places in a plan: dotted paths and their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_LAST = re.compile(r"(\.[^.\[\]]+|\[\d+\]|^[^.\[\]]+)$")


def field_path(parts: Iterable[str | int]) -> str:
    """Write ("steps", 3, "needs", 0) as `steps[3].needs[0]`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def line_of(field: str, lines: Mapping[str, int]) -> int:
    """Return the line of `field`, else of the nearest part around it that has one; 0 when the source has no lines."""
    while field not in lines:
        match = _LAST.search(field)
        if match is None:
            return lines.get("", 0)
        field = field[: match.start()]
    return lines[field]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest `; did you mean 'vendor'?`, or nothing when no known word is near."""
    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
