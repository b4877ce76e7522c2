"""`wedsync up | down`: the embedded stack, everything on this machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from wedsync.cli import output as out
from wedsync.cli.output import JsonFlag

if TYPE_CHECKING:
    from wedsync.local.state import RunInfo


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(up)
    app.command()(down)


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; `wedsync down` stops it.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Start the whole stack on this machine.

    Postgres, Temporal with its UI, the vendors' stand-ins, a worker and the API. Runs until ^C; a worker that
    dies is started again. State stays in WEDSYNC_STATE_DIR (.wedsync).
    """
    from wedsync.kit.settings import Settings
    from wedsync.local import stack

    settings = Settings()
    if detach:
        announce_ready(asyncio.run(stack.start_detached(settings)))
    else:
        asyncio.run(stack.run_until_stopped(settings, announce_ready))
    return out.ACCEPTED


def announce_ready(run: RunInfo) -> None:
    """Print where everything is; the secrets stay in the file."""
    out.current().result(
        run.model_dump(mode="json", exclude={"api_key", "database_url"}),
        f"API          {run.api_url}",
        f"Temporal UI  {run.temporal_ui_url}",
        f"Sandbox      {run.sandbox_url}",
    )


def down(as_json: JsonFlag = False) -> int:
    """Stop the stack that runs here. Its state stays for the next time."""
    from wedsync.kit.settings import Settings
    from wedsync.local import stack

    was_there = asyncio.run(stack.stop(Settings()))
    out.current().result({"stopped": was_there}, "stopped" if was_there else "nothing was running")
    return out.ACCEPTED
