"""`wedsync up | down`: the embedded stack, everything on this machine."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.client import running_stack
from wedsync.cli.output import JsonFlag


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(up)
    app.command()(down)


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; `wedsync down` stops it.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Start Postgres, Temporal with its UI, the vendors' stand-ins, a worker and the API on this machine.

    Runs until ^C; a worker that dies is started again. State stays in WEDSYNC_STATE_DIR (.wedsync).
    """
    from wedsync.kit.settings import Settings
    from wedsync.local import stack

    settings = Settings()
    if detach:
        tell_ready(asyncio.run(stack.start_detached(settings)))
    else:
        asyncio.run(stack.run_until_stopped(settings, tell_ready))
    return out.ACCEPTED


def tell_ready(run: Any) -> None:
    """Say where everything is; the API key stays in the file."""
    found = run if isinstance(run, dict) else run.model_dump(mode="json")
    shown = {name: value for name, value in found.items() if name not in ("api_key", "database_url")}
    out.current().result(
        shown,
        f"API          {found['api_url']}",
        f"Temporal UI  {found['temporal_ui_url']}",
        f"Sandbox      {found['sandbox_url']}",
    )


def down(as_json: JsonFlag = False) -> int:
    """Stop the stack that `wedsync up` started; its state stays for the next time."""
    from wedsync.kit.settings import Settings
    from wedsync.local import stack

    was_there = running_stack() is not None
    asyncio.run(stack.stop(Settings()))
    out.current().result({"stopped": was_there}, "stopped" if was_there else "nothing was running")
    return out.ACCEPTED
