"""Resolve wall times at the venue to instants. Zone data: the standard library's `zoneinfo`."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.durations import Span, parse_duration, parse_span
from wedsync.domain.plans.plan import Plan, PlannedStep

Fold = Literal["earlier", "later"]
CEREMONY = "ceremony"
_WALL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_RELATIVE = re.compile(r"([a-z0-9][a-z0-9-]*)(?:\s+([+-])\s*([0-9A-Za-z]+))?")
#: Keys of the zone database that are not zones of a place.
_NOT_PLACES = ("posix/", "right/", "localtime", "posixrules", "Factory")


class Relative(BaseModel):
    """`ceremony - 48h`: an anchor (the ceremony, or a step's end) and a distance."""

    model_config = ConfigDict(frozen=True)
    anchor: str
    sign: Literal[1, -1] = 1
    span: Span = Span(days=0, seconds=0)


@dataclass(frozen=True)
class AtOnce:
    """Due as soon as its needs are met."""


@dataclass(frozen=True)
class At:
    """Due at an instant (UTC)."""

    at: datetime


@dataclass(frozen=True)
class After:
    """Due some time after step `step_id` has ended, which it has not yet."""

    step_id: str


Due = AtOnce | At | After


@lru_cache(maxsize=256)
def zone_info(zone: str) -> ZoneInfo:
    """Return the zone of an IANA name; raises InvalidInput(reason="unknown_zone")."""
    try:
        if zone.startswith(_NOT_PLACES):
            raise ZoneInfoNotFoundError
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"{zone!r} is no IANA time zone", reason="unknown_zone") from None


def parse_wall(local: str) -> datetime:
    """Parse the naive time `2027-06-19T16:00` (seconds optional); raises InvalidInput(reason="bad_time")."""
    try:
        if _WALL.fullmatch(local) and 1970 <= int(local[:4]) <= 2200:
            return datetime.fromisoformat(local)
    except ValueError:
        pass
    raise InvalidInput(f"{local!r} is no wall time such as 2027-06-19T16:00 (no offset)", reason="bad_time")


def parse_relative(text: str) -> Relative | None:
    """Parse the anchor and distance of `ceremony - 48h` or `booking + 7d`; None when `text` has another form.

    Raises InvalidInput(reason="bad_duration").
    """
    match = _RELATIVE.fullmatch(text.strip())
    if match is None:
        return None
    if match[2] is None:
        return Relative(anchor=match[1])
    return Relative(anchor=match[1], sign=1 if match[2] == "+" else -1, span=parse_span(match[3]))


def resolve_wall(local: str, zone: str, fold: Fold | None) -> datetime:
    """Return the instant (UTC) at which the wall in `zone` shows `local`.

    Raises InvalidInput with reason `bad_time`, `unknown_zone`, `nonexistent_time` (daylight saving skips it) or
    `ambiguous_time` (daylight saving repeats it and `fold` is None).
    """
    wall = parse_wall(local)
    place = zone_info(zone)
    first, second = wall.replace(tzinfo=place), wall.replace(tzinfo=place, fold=1)
    if first.utcoffset() == second.utcoffset():
        return first.astimezone(UTC)
    if first.astimezone(UTC).astimezone(place).replace(tzinfo=None) != wall:
        raise InvalidInput(
            f"{local} does not exist in {zone}: the clock is set forward over it", reason="nonexistent_time"
        )
    if fold is None:
        raise InvalidInput(
            f"{local} comes twice in {zone}: the clock is set back; say fold: earlier or fold: later",
            reason="ambiguous_time",
        )
    return (first if fold == "earlier" else second).astimezone(UTC)


def wall_text(instant: datetime, zone: str) -> str:
    """Write what the wall in `zone` shows at `instant`: `2027-06-19T16:00:00`."""
    return instant.astimezone(zone_info(zone)).replace(tzinfo=None).isoformat(timespec="seconds")


def shift(instant: datetime, sign: Literal[1, -1], span: Span, zone: str) -> datetime:
    """Move `instant` by `span`: days on the wall of `zone`, so that 16:00 stays 16:00, hours as they pass.

    A wall time that daylight saving skips becomes as much later; of one that it repeats the earlier is taken.
    """
    place = zone_info(zone)
    wall = instant.astimezone(place).replace(tzinfo=None) + sign * timedelta(days=span.days)
    start = instant if not span.days else wall.replace(tzinfo=place).astimezone(UTC)
    return start + sign * timedelta(seconds=span.seconds)


def ceremony_instant(plan: Plan) -> datetime:
    """Return the instant (UTC) of the ceremony; raises InvalidInput as `resolve_wall` does."""
    ceremony = plan.wedding.ceremony
    return resolve_wall(ceremony.at, ceremony.zone, ceremony.fold)


def end_instant(plan: Plan) -> datetime:
    """Return when the wedding is over; raises InvalidInput as `ceremony_instant` and `parse_duration`."""
    return ceremony_instant(plan) + parse_duration(plan.wedding.ends_after)


def instant_of(text: str, zone: str, fold: Fold | None, plan: Plan) -> datetime:
    """Return the instant (UTC) of an input's time: a wall time in `zone`, or relative to the ceremony.

    Raises InvalidInput as `resolve_wall` does; `bad_time` for any other anchor.
    """
    relative = None if _WALL.fullmatch(text) else parse_relative(text)
    if relative is None:
        return resolve_wall(text, zone, fold)
    if relative.anchor != CEREMONY:
        raise InvalidInput(f"{text!r} is neither a wall time nor relative to the ceremony", reason="bad_time")
    return shift(ceremony_instant(plan), relative.sign, relative.span, plan.wedding.ceremony.zone)


def due_at(step: PlannedStep, plan: Plan, ended: Mapping[str, datetime]) -> Due:
    """Return when `step` is due: AtOnce, At(instant), or After(step) while the step it is anchored to has not ended.

    `ended` holds the steps' ends (aware). Raises InvalidInput as `resolve_wall` does.
    """
    if step.at is None:
        return AtOnce()
    zone = plan.wedding.ceremony.zone
    relative = None if _WALL.fullmatch(step.at) else parse_relative(step.at)
    if relative is None:
        return At(at=resolve_wall(step.at, zone, step.fold))
    if relative.anchor == CEREMONY:
        return At(at=shift(ceremony_instant(plan), relative.sign, relative.span, zone))
    end = ended.get(relative.anchor)
    if end is None:
        return After(step_id=relative.anchor)
    return At(at=shift(end.astimezone(UTC), relative.sign, relative.span, zone))


def at_anchor(at: str | None) -> str | None:
    """Return the step that an `at` is anchored to; None when it is absolute, relative to the ceremony, or malformed."""
    if at is None or _WALL.fullmatch(at):
        return None
    try:
        relative = parse_relative(at)
    except InvalidInput:
        return None
    return None if relative is None or relative.anchor == CEREMONY else relative.anchor


@lru_cache(maxsize=1)
def tzdata_version() -> str:
    """Return the release of the zone data in use, e.g. `2026f`; `unknown` when the system's data does not say.

    `zoneinfo` takes the system's data before the package `tzdata`; so does this.
    """
    for folder in map(Path, zoneinfo.TZPATH):
        if (folder / "UTC").exists():
            return release_of(folder)
    return release_of(Path(str(resources.files("tzdata"))) / "zoneinfo")


def release_of(folder: Path) -> str:
    """Return the release that zone data in `folder` names in its `tzdata.zi`, or `unknown`."""
    file = folder / "tzdata.zi"
    if not file.is_file():
        return "unknown"
    with file.open(encoding="utf-8") as lines:
        match = re.fullmatch(r"# version (\S+)\s*", lines.readline())
    return match[1] if match else "unknown"
