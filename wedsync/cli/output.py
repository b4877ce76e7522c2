"""Output of a command: one JSON object or text for people on stdout, all else on stderr; and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

ACCEPTED = 0
INTERNAL = 1
BAD_INPUT = 2
ROLLED_BACK = 3
HELD = 4
NEEDS_ATTENTION = 5
CONFLICT = 6
UNREACHABLE = 7
#: Left by ^C (128 + SIGINT).
INTERRUPTED = 130

#: `--json` stands in every command's help; `begin` reads it, wherever on the line it stands.
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout (watch: one a line); logs go to stderr.")
]


class CliError(Exception):
    """A command's failure: a stable `code`, a `detail` for people, an exit code, and where a plan is wrong."""

    def __init__(self, code: str, detail: str, exit_code: int, errors: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.exit_code = exit_code
        self.errors = [_place(error) for error in errors]

    def as_json(self) -> dict[str, Any]:
        """Build `{"error": {code, detail, errors: [{file, line, field, code, detail}]}}`."""
        return {"error": {"code": self.code, "detail": self.detail, "errors": self.errors}}


def _place(error: dict[str, Any]) -> dict[str, Any]:
    blank: dict[str, Any] = {"file": "", "line": 0, "field": "", "code": "", "detail": ""}
    return {name: error.get(name, default) for name, default in blank.items()}


def describe_place(error: dict[str, Any]) -> str:
    """Write `file:line: field`, as far as each is known."""
    place = str(error["file"])
    if error["line"]:
        place += f":{error['line']}" if place else f"line {error['line']}"
    return ": ".join(part for part in (place, str(error["field"])) if part)


class Output:
    """Output of one command."""

    def __init__(self, *, json_mode: bool = False) -> None:
        self.json_mode = json_mode
        self._out: Console | None = None

    @property
    def console(self) -> Console:
        """Return stdout, for people."""
        if self._out is None:
            self._out = _console()
        return self._out

    def emit(self, value: Any) -> None:
        """Write one JSON object as one line."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a line for people: on stdout, or on stderr when stdout is JSON."""
        stream = sys.stderr if self.json_mode else sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def show(self, renderable: RenderableType) -> None:
        """Draw something for people; nothing in JSON mode."""
        if not self.json_mode:
            self.console.print(renderable)

    def result(self, value: Any, *lines: str) -> None:
        """Print the result: `value` in JSON mode, else the lines."""
        if self.json_mode:
            self.emit(value)
            return
        for line in lines:
            self.say(line)

    def fail(self, error: CliError) -> int:
        """Print what went wrong and return the exit code."""
        if self.json_mode:
            self.emit(error.as_json())
            return error.exit_code
        sys.stderr.write(f"wedsync: {error.detail}\n")
        for item in error.errors:
            if item["detail"] != error.detail:
                sys.stderr.write(f"  {describe_place(item)}: {item['detail']} [{item['code']}]\n")
        sys.stderr.flush()
        return error.exit_code


def _console() -> Console:
    from rich.console import Console

    # Nothing is cut for a file or a pipe.
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, emoji=False, width=width)


_state = {"current": Output()}


def begin(argv: Sequence[str]) -> Output:
    """Make a fresh output for one command line."""
    words = list(argv)[: list(argv).index("--")] if "--" in argv else list(argv)
    _state["current"] = Output(json_mode="--json" in words)
    return _state["current"]


def current() -> Output:
    """Return the running command's output."""
    return _state["current"]
