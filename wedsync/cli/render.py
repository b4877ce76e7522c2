"""Draws a wedding in the terminal: steps, progress, what comes later, what was undone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wedsync.cli.follow import Snapshot
from wedsync.kit.clock import utc_now

_STYLES = {
    "succeeded": "green",
    "completed": "green",
    "undone": "cyan",
    "rolled_back": "cyan",
    "running": "yellow",
    "rolling_back": "yellow",
    "waiting": "magenta",
    "held": "bold magenta",
    "failed": "red",
    "needs_attention": "bold red",
    "scheduled": "blue",
}
#: Nothing more of the step is to come in this transaction.
_OVER = frozenset({"succeeded", "failed", "skipped", "scheduled"})
Json = dict[str, Any]


def moment(text: Any) -> datetime | None:
    """Read an instant from RFC 3339 text; None when there is none."""
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def venue_time(text: Any, zone: str) -> str:
    """Write an instant as the clock at the venue shows it: `Sat 2027-06-19 16:00 CEST`."""
    instant = moment(text)
    if instant is None:
        return ""
    try:
        return instant.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M %Z")
    except (ZoneInfoNotFoundError, ValueError):
        return instant.strftime("%a %Y-%m-%d %H:%M UTC")


def took(step: Json, now: datetime | None = None) -> str:
    """Write how long the step took, or has taken so far: `0.4 s`."""
    started = moment(step.get("started_at"))
    if started is None:
        return ""
    ended = moment(step.get("ended_at")) or now
    if ended is None:
        return ""
    seconds = max(0.0, (ended - started).total_seconds())
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def state_of(step: Json) -> str:
    """Return one word for a step's state, its undo included."""
    compensation = step.get("compensation") or {}
    undo = compensation.get("status")
    if undo and undo != "pending":
        return {"running": "undoing", "nothing_to_undo": "nothing to undo"}.get(str(undo), str(undo))
    return str(step.get("status", ""))


def vendor_of(step: Json) -> str:
    """Return the vendor, marked when it is not the first choice."""
    vendor = str(step.get("vendor") or "")
    return f"{vendor} (fallback)" if vendor and step.get("fallback_used") else vendor


def _styled(word: str) -> Text:
    return Text(word.replace("_", " "), style=_STYLES.get(word, ""))


def remark(step: Json) -> str:
    """Return the reason for a step's state: the error, or the undo's own message."""
    compensation = step.get("compensation") or {}
    error = step.get("error") or {}
    return str(compensation.get("detail") or error.get("detail") or "")


def steps_table(steps: Sequence[Json], title: str = "", now: datetime | None = None, *, fold: bool = True) -> Table:
    """Draw each step with its state, vendor and duration; one line each unless remarks may `fold`."""
    table = Table(title=title or None, title_justify="left", expand=False, pad_edge=False)
    for name in ("step", "action", "state", "vendor"):
        table.add_column(name, no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("remark", no_wrap=not fold, overflow="fold" if fold else "ellipsis", max_width=60)
    for step in steps:
        table.add_row(
            str(step.get("id", "")),
            str(step.get("action", "")),
            _styled(state_of(step)),
            vendor_of(step),
            took(step, now),
            remark(step),
        )
    return table


def later(steps: Sequence[Json]) -> list[Json]:
    """List the agenda: the steps that come later, the earliest first; those whose time hangs on another step, last."""
    due = [step for step in steps if step["status"] == "scheduled"]
    return sorted(due, key=lambda step: (step["due_at"] is None, str(step["due_at"])))


def waited_for(steps: Sequence[Json]) -> list[Json]:
    """List the steps that wait for a vendor's confirmation or a person."""
    return [step for step in steps if step.get("status") in ("waiting", "held")]


def agenda_table(steps: Sequence[Json], zone: str) -> Table | None:
    """Draw what comes later and when, in the venue's time; None when nothing does."""
    items = later(steps)
    waits = waited_for(steps)
    if not items and not waits:
        return None
    table = Table(title="agenda", title_justify="left", pad_edge=False)
    for name in (f"when ({zone})", "step", "action", "vendor"):
        table.add_column(name, no_wrap=True)
    for step in waits:
        what = "a decision" if step["status"] == "held" else "the vendor's word"
        table.add_row(Text(f"waits for {what}", style="magenta"), step["id"], step.get("action", ""), vendor_of(step))
    for step in items:
        when = venue_time(step["due_at"], zone) or "some time after another step"
        table.add_row(when, step["id"], step.get("action", ""), vendor_of(step))
    return table


def compensations(steps: Sequence[Json]) -> list[Json]:
    """List the steps for which an undo was run or is due."""
    return [step for step in steps if step.get("compensation")]


def compensation_table(steps: Sequence[Json]) -> Table | None:
    """Draw the report of what was undone, had nothing to undo, or needs attention; None without any."""
    items = compensations(steps)
    if not items:
        return None
    table = Table(title="compensations", title_justify="left", pad_edge=False)
    for name in ("step", "vendor", "outcome", "attempts", "detail"):
        table.add_column(name, overflow="fold")
    for step in items:
        report = step["compensation"]
        table.add_row(
            step["id"],
            vendor_of(step),
            _styled(str(report.get("status", ""))),
            str(report.get("attempts", "")),
            str(report.get("detail") or ""),
        )
    return table


def progress(steps: Sequence[Json]) -> RenderableType:
    """Draw a bar of how many steps have come to rest."""
    over = sum(1 for step in steps if step.get("status") in _OVER)
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(1, len(steps)), completed=over, width=40), f"{over}/{len(steps)}")
    return line


def wedding_title(snapshot: Snapshot) -> str:
    """Write `villa-aurora 01J... : orchestrate completed`."""
    wedding = snapshot.wedding
    name = str(wedding["reference"])
    kind = snapshot.transaction.get("kind", "")
    status = snapshot.status.replace("_", " ")
    return f"{name} · {kind} {status}".strip(" ·")


def busiest(steps: Sequence[Json], rows: int) -> list[Json]:
    """List the `rows` steps that most deserve attention, in the plan's order: what moves, what moved last, the rest."""

    def rank(step: Json) -> tuple[int, float]:
        moving = state_of(step) in ("running", "undoing", "waiting", "held", "failed", "needs_attention")
        newest = moment(step.get("ended_at")) or moment(step.get("started_at"))
        return (0 if moving else 1 if newest else 2, -newest.timestamp() if newest else 0.0)

    chosen = {step["id"] for step in sorted(steps, key=rank)[: max(rows, 1)]}
    return [step for step in steps if step["id"] in chosen]


def live_board(snapshot: Snapshot, height: int) -> RenderableType:
    """Draw the moving wedding, no taller than a terminal of `height` lines: steps, bar, the next of the agenda."""
    steps, zone = snapshot.steps, snapshot.zone
    agenda = [*waited_for(steps), *later(steps)][: max(1, height // 5)]
    room = height - len(agenda) - 12
    shown = busiest(steps, room)
    parts: list[RenderableType] = [steps_table(shown, wedding_title(snapshot), utc_now(), fold=False), progress(steps)]
    if len(shown) < len(steps):
        parts.append(Text(f"{len(steps) - len(shown)} more steps", style="dim"))
    table = agenda_table(agenda, zone)
    return Group(*parts, *([table] if table else []))


def controller(snapshot: Snapshot) -> RenderableType:
    """Draw the whole wedding: steps, bar, agenda, compensation report."""
    steps = snapshot.steps
    parts: list[RenderableType] = [steps_table(steps, wedding_title(snapshot), utc_now()), progress(steps)]
    parts += [part for part in (agenda_table(steps, snapshot.zone), compensation_table(steps)) if part is not None]
    return Group(*parts)


def weddings_table(weddings: Sequence[Json]) -> Table:
    """Draw the organization's weddings."""
    table = Table(pad_edge=False)
    for name in ("id", "plan", "status", "phase", "ceremony"):
        table.add_column(name, no_wrap=True)
    for wedding in weddings:
        ceremony = wedding["ceremony"]
        table.add_row(
            wedding["id"],
            wedding["reference"],
            _styled(wedding["status"]),
            wedding["phase"],
            f"{ceremony['local']} {ceremony['zone']}",
        )
    return table
