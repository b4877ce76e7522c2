"""Parse durations of a plan: ISO 8601 (`PT2H`, `P3D`, `P1DT12H`) or shorthand (`90m`, `48h`, `7d`, `2w`)."""

from __future__ import annotations

import re
from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from wedsync.domain.errors import InvalidInput

#: Nothing in a wedding is longer.
MAX_DAYS = 3660
_SHORT = re.compile(r"([0-9]{1,9})([smhdw])")
_ISO_WEEKS = re.compile(r"P([0-9]{1,9})W")
_ISO = re.compile(r"P(?:([0-9]{1,9})D)?(?:T(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,9})S)?)?")


class Span(BaseModel):
    """A duration with its days apart: a day is a calendar day on the venue's wall, an hour is 3600 seconds."""

    model_config = ConfigDict(frozen=True)
    days: int
    seconds: int

    def total(self) -> timedelta:
        """Return its length if every day has 24 hours."""
        return timedelta(days=self.days, seconds=self.seconds)


def parse_span(text: str) -> Span:
    """Parse the calendar days and seconds of `text`; raises InvalidInput(reason="bad_duration")."""
    span = _short(text) or _iso(text)
    if span is None:
        raise InvalidInput(
            f"{text!r} is not a duration: write 90m, 48h, 7d, 2w or ISO 8601 days to seconds (P1DT12H)",
            reason="bad_duration",
        )
    if span.days + span.seconds / 86_400 > MAX_DAYS:
        raise InvalidInput(f"{text!r} is longer than {MAX_DAYS} days", reason="bad_duration")
    return span


def parse_duration(text: str) -> timedelta:
    """Parse the length of `text`, a day being 24 hours; raises InvalidInput(reason="bad_duration").

    Years and months have no fixed length and are refused.
    """
    return parse_span(text).total()


def _short(text: str) -> Span | None:
    match = _SHORT.fullmatch(text)
    if match is None:
        return None
    number, unit = int(match[1]), match[2]
    if unit in "dw":
        return Span(days=number * (7 if unit == "w" else 1), seconds=0)
    return Span(days=0, seconds=number * {"s": 1, "m": 60, "h": 3600}[unit])


def _iso(text: str) -> Span | None:
    weeks = _ISO_WEEKS.fullmatch(text)
    if weeks is not None:
        return Span(days=7 * int(weeks[1]), seconds=0)
    match = _ISO.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return Span(days=days, seconds=hours * 3600 + minutes * 60 + seconds)
