"""Runs the `wedsync` command: reads the command line, runs one verb, exits by its outcome."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.exceptions import Abort, TyperException

from wedsync.cli import access, changes, demo, output, plans, programs, rehearse, run, stack, weddings
from wedsync.cli.output import CliError, JsonFlag

_EPILOG = (
    "Exit codes: 0 accepted, or ended as asked; 1 internal; 2 bad input; 3 rolled back; 4 held; "
    "5 needs attention; 6 not found or conflict; 7 unreachable."
)

app = typer.Typer(
    name="wedsync",
    help="Run the third-party side of weddings durably: book, pay, schedule, tell, and undo.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: the rich one takes longer to load than all else together.
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        found = version("wedsync")
        output.current().result({"version": found}, f"wedsync {found}")
        raise typer.Exit


@app.callback()
def options(
    as_json: JsonFlag = False,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Run the third-party side of weddings durably: book, pay, schedule, tell, and undo."""


for _module in (stack, demo, plans, run, weddings, changes, rehearse, programs, access):
    _module.register(app)


def invoke(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; prints, never raises."""
    out = output.begin(argv)
    try:
        result = app(list(argv), prog_name="wedsync", standalone_mode=False)
    except CliError as error:
        return out.fail(error)
    except TyperException as error:
        return _usage(out, error)
    except (KeyboardInterrupt, Abort):
        return output.INTERRUPTED
    except BrokenPipeError:
        return output.INTERNAL
    except Exception as error:  # noqa: BLE001
        return out.fail(translate(error))
    return result if isinstance(result, int) else output.ACCEPTED


def _usage(out: output.Output, error: TyperException) -> int:
    if out.json_mode:
        return out.fail(CliError("usage", error.format_message(), output.BAD_INPUT))
    show = getattr(error, "show", None)
    if show is not None:
        show(sys.stderr)
    return output.BAD_INPUT


def translate(error: Exception) -> CliError:
    """Turn any error into the command line's: ours by their family, wrong settings by name, the rest as internal."""
    from pydantic import ValidationError

    from wedsync.domain import errors as family

    if isinstance(error, ValidationError):
        return _wrong_settings(error.errors())
    if not isinstance(error, family.WedsyncError):
        return CliError("internal", f"{type(error).__name__}: {error}", output.INTERNAL)
    codes: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
        ((family.InvalidInput,), output.BAD_INPUT),
        ((family.NotFound, family.Conflict), output.CONFLICT),
        ((family.StoreUnavailable, family.VendorUnavailable), output.UNREACHABLE),
    )
    unreachable = "unreachable" in error.code or "unreachable" in type(error).__name__.lower()
    fallback = output.UNREACHABLE if unreachable else output.INTERNAL
    exit_code = next((code for kinds, code in codes if isinstance(error, kinds)), fallback)
    field = getattr(error, "field", "")
    places = [{"field": field, "code": error.code, "detail": error.detail}] if field else []
    return CliError(error.code, error.detail, exit_code, places)


def _wrong_settings(faults: Sequence[Any]) -> CliError:
    places = []
    for fault in faults:
        name = "__".join(str(part).upper() for part in fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        places.append({"field": f"WEDSYNC_{name}" if name else "", "code": "invalid_setting", "detail": message})
    return CliError("invalid_settings", "the settings are wrong", output.BAD_INPUT, places)


def main() -> None:
    """Run the command line and leave at once: the interpreter may crash at exit after a Temporal client was used."""
    code = invoke(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or output.INTERNAL
    os._exit(code)
