"""Shows a wedding while it moves: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from wedsync.cli.follow import Snapshot
from wedsync.cli.output import Output
from wedsync.cli.render import (
    agenda_table,
    compensation_table,
    controller,
    live_board,
    remark,
    state_of,
    took,
    vendor_of,
)

if TYPE_CHECKING:
    from rich.live import Live


class Screen:
    """Draws snapshots as they come: nothing in JSON mode, one live picture on a terminal, else a line per change."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live: Live | None = None
        self._seen: dict[str, str] = {}
        self._last: Snapshot | None = None

    def __enter__(self) -> Self:
        if not self._output.json_mode and self._output.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._output.console, refresh_per_second=8, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            if self._last is not None:
                self._live.vertical_overflow = "visible"
                self._live.update(controller(self._last), refresh=True)
            self._live.stop()
        elif self._last is not None and not self._output.json_mode:
            for table in (
                agenda_table(self._last.steps, self._last.zone),
                compensation_table(self._last.steps),
            ):
                if table is not None:
                    self._output.show(table)

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state."""
        self._last = snapshot
        if self._output.json_mode:
            return
        if self._live:
            self._live.update(live_board(snapshot, self._output.console.height))
            return
        for step in snapshot.steps:
            self._line(step)

    def _line(self, step: dict[str, Any]) -> None:
        state = state_of(step)
        mark = f"{state} {vendor_of(step)}"
        if state in ("pending", "scheduled") or self._seen.get(step["id"]) == mark:
            return
        self._seen[step["id"]] = mark
        words = (
            f"  {step['id']:<28} {state.replace('_', ' '):<16} {vendor_of(step):<24} {took(step):>7}  {remark(step)}"
        )
        self._output.say(words.rstrip())
