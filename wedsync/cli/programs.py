"""`wedsync worker | api | sandbox | migrate | vendors`: the programs themselves, and what belongs to them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.output import BAD_INPUT, CONFLICT, UNREACHABLE, CliError, JsonFlag

if TYPE_CHECKING:
    from wedsync.domain.vendors.manifest import Manifest
    from wedsync.kit.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (worker, api, sandbox, migrate, vendors):
        app.command()(command)


def _settings(program: str, *, only_local: bool = False, has_database: bool = False) -> Settings:
    from wedsync.kit import logs, telemetry
    from wedsync.kit.settings import Settings

    settings = Settings()
    if only_local and not settings.is_local:
        raise CliError("not_local", f"the {program} runs with WEDSYNC_ENVIRONMENT=local only", BAD_INPUT)
    if has_database:
        _check_url(settings.database_url)
    logs.setup(settings, program)
    telemetry.setup(settings, program)
    return settings


def _check_url(url: str) -> None:
    from sqlalchemy.exc import ArgumentError

    from wedsync.store.db.session import sqlalchemy_url

    if not url:
        raise CliError("database_url_missing", "set WEDSYNC_DATABASE_URL", BAD_INPUT)
    try:
        sqlalchemy_url(url)
    except (ValueError, ArgumentError):
        raise CliError("invalid_settings", "WEDSYNC_DATABASE_URL is no postgresql:// URL", BAD_INPUT) from None


def _serve(program: Coroutine[Any, Any, None]) -> int:
    from wedsync.cli.local_stack import terminated_as_interrupt
    from wedsync.kit import loop, telemetry

    try:
        # Uvicorn shuts down well and then raises the signal again.
        with terminated_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
            loop.run(program)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise CliError("port_taken", "the port is taken by another program", CONFLICT) from error
    except SystemExit as error:
        # Uvicorn exits by itself, with a code that means something else here.
        raise CliError("not_started", "it did not start: the log above says why", out.INTERNAL) from error
    telemetry.flush()
    return out.ACCEPTED


def worker(as_json: JsonFlag = False) -> int:
    """Run a worker in the foreground.

    Until ^C or SIGTERM; what runs is finished first. With --json one line says which queues it serves, once it does.
    """
    from workers.main import run

    output = out.current()

    def ready(queues: list[str]) -> None:
        if output.json_mode:
            output.emit({"queues": queues})

    return _serve(run(_settings("worker", has_database=True), ready))


def api(as_json: JsonFlag = False) -> int:
    """Run the REST API in the foreground.

    On WEDSYNC_API_HOST and WEDSYNC_API_PORT. With --json one line says where, once it takes requests.
    """
    from api.main import serve

    output = out.current()

    def ready(url: str) -> None:
        if output.json_mode:
            output.emit({"api_url": url})

    return _serve(serve(_settings("api", has_database=True), ready))


def sandbox(
    port: Annotated[
        int | None, typer.Option("--port", help="0 takes a free one; default WEDSYNC_SANDBOX_PORT.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Run the vendors' stand-ins in the foreground.

    Only with WEDSYNC_ENVIRONMENT=local. Its first line says where, once it takes requests.
    """
    from wedsync.sandbox.app import serve

    settings = _settings("sandbox", only_local=True)
    output = out.current()

    def ready(bound: int) -> None:
        url = f"http://127.0.0.1:{bound}"
        output.result({"sandbox_url": url}, f"sandbox: {url}")

    return _serve(serve(settings, port=settings.sandbox_port if port is None else port, ready=ready))


def migrate(
    down: Annotated[str | None, typer.Option("--down", metavar="REV", help="Go down to this revision.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Bring the database and Temporal up to date.

    The database to the newest revision (or down to REV), the namespace to the search attributes that are used. It
    logs in by WEDSYNC_DATABASE_OWNER_URL and gives wedsync_app the password in WEDSYNC_DATABASE_URL.
    """
    from wedsync.kit.settings import Settings

    settings = Settings()
    url = settings.database_owner_url or settings.database_url
    if not url:
        detail = "set WEDSYNC_DATABASE_OWNER_URL or WEDSYNC_DATABASE_URL (`wedsync up` migrates its own database)"
        raise CliError("database_url_missing", detail, BAD_INPUT)
    return asyncio.run(_migrate(settings, url, down))


async def _migrate(settings: Settings, url: str, down: str | None) -> int:
    from wedsync.store.db.migrate import app_password, downgrade, upgrade

    output = out.current()
    if down is not None:
        await downgrade(url, down)
        output.result({"revision": down, "temporal": None}, f"database: {down}")
        return out.ACCEPTED
    has_owner = bool(settings.database_owner_url and settings.database_url)
    revision = await upgrade(url, app_password(settings.database_url) if has_owner else None)
    temporal = await _provision(settings)
    output.result({"revision": revision, "temporal": temporal}, f"database: {revision}", f"Temporal: {temporal}")
    return out.ACCEPTED


async def _provision(settings: Settings) -> str:
    from wedsync.domain.errors import Conflict, TemporalUnreachable
    from wedsync.kit import temporal

    try:
        done = await temporal.provision(await temporal.connect(settings))
    except TemporalUnreachable as error:
        # Only a server that nobody named may be missing.
        if temporal.is_configured():
            detail = f"{error.detail}: its namespace is not provisioned (the database is up to date)"
            raise CliError(error.code, detail, UNREACHABLE) from error
        return "none configured, not provisioned"
    except Conflict as error:
        raise CliError("temporal_refused", error.detail, CONFLICT) from error
    return f"provisioned, {len(done.added)} search attributes added"


def vendors(as_json: JsonFlag = False) -> int:
    """List the vendors and what each can do.

    Also how each action is undone, what an unknown outcome means, and whether the vendor is configured here.
    """
    from wedsync.kit.settings import Settings
    from wedsync.vendors.registry import load_registry

    settings = Settings()
    found = [_vendor(manifest, settings) for _, manifest in sorted(load_registry().manifests.items())]
    output = out.current()
    if output.json_mode:
        output.emit({"data": found})
    else:
        output.show(_vendors_table(found))
    return out.ACCEPTED


def _vendor(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    account = settings.vendor(manifest.name)
    configured = bool(account.base_url or account.api_key.get_secret_value() or account.client_id)
    return {
        "name": manifest.name,
        "title": manifest.title,
        "capabilities": list(manifest.capabilities),
        "api_version": manifest.api_version,
        "configured": configured or manifest.auth.kind == "none",
        "actions": [
            {
                "name": action.name,
                "undo": action.undo,
                "by_hand": action.manual,
                "undo_by_hand": action.undo_manual,
                "on_unknown": {operation.name: operation.on_unknown for operation in action.operations},
            }
            for action in manifest.actions
        ],
    }


def _vendors_table(found: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(pad_edge=False)
    for name in ("vendor", "capabilities", "action", "undo", "unknown outcome", "configured"):
        table.add_column(name)
    for vendor in found:
        first = True
        for action in vendor["actions"]:
            undo = f"{action['undo']} (by hand)" if action["undo_by_hand"] else action["undo"]
            table.add_row(
                vendor["name"] if first else "",
                ", ".join(vendor["capabilities"]) if first else "",
                f"{action['name']} (by hand)" if action["by_hand"] else action["name"],
                undo,
                ", ".join(sorted(set(action["on_unknown"].values()))),
                ("yes" if vendor["configured"] else "no") if first else "",
            )
            first = False
    return table
