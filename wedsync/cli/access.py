"""`wedsync organizations | keys`: who may use this installation. Works on its database, not through the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from wedsync.cli import output as out
from wedsync.cli.client import running_stack
from wedsync.cli.output import BAD_INPUT, CliError, JsonFlag

if TYPE_CHECKING:
    from wedsync.kit.settings import Settings
    from wedsync.store.db.session import Database
    from wedsync.usecases.access.admit import IssuedKey

ResultT = TypeVar("ResultT")

organizations = typer.Typer(
    help="Who may use this installation: organizations and their API keys.", no_args_is_help=True, rich_markup_mode=None
)
keys = typer.Typer(help="API keys of organizations.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(organizations, name="organizations")
    root.add_typer(keys, name="keys")


@organizations.command("create")
def create_organization(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    organization_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id; by default a new one.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Create an organization and print its first API key, once.

    It logs in by WEDSYNC_DATABASE_URL; WEDSYNC_API_KEY_PEPPER is the API's own.
    """
    from wedsync.usecases.access import admit

    async def action(db: Database, pepper: str) -> IssuedKey:
        return await admit.create_organization(db, name, pepper, organization_id=organization_id)

    return _say_key(_on_database(action))


@organizations.command("list")
def list_organizations(as_json: JsonFlag = False) -> int:
    """List the organizations and their keys, as far as keys are remembered: never the keys themselves."""
    from wedsync.usecases.access import admit

    async def action(db: Database, pepper: str) -> list[admit.KnownOrganization]:
        return await admit.list_organizations(db)

    found, output = _on_database(action), out.current()
    if output.json_mode:
        output.emit({"data": [one.model_dump(mode="json") for one in found]})
    else:
        output.show(_table(found))
    return out.ACCEPTED


@keys.command("create")
def create_key(
    organization_id: Annotated[str, typer.Argument(metavar="ORGANIZATION", help="The organization's id.")],
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "cli",
    as_json: JsonFlag = False,
) -> int:
    """Give an organization another API key and print it, once."""
    from wedsync.usecases.access import admit

    async def action(db: Database, pepper: str) -> IssuedKey:
        return await admit.create_key(db, organization_id, name, pepper)

    return _say_key(_on_database(action))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `wedsync organizations list` shows it.")],
    as_json: JsonFlag = False,
) -> int:
    """Take a key back: within 30 seconds every process refuses it."""
    from wedsync.usecases.access import admit

    async def action(db: Database, pepper: str) -> str:
        return (await admit.revoke_key(db, key_id)).isoformat()

    since = _on_database(action)
    out.current().result({"key_id": key_id, "revoked_at": since}, f"key {key_id}: revoked since {since}")
    return out.ACCEPTED


def _on_database(action: Callable[[Database, str], Awaitable[ResultT]]) -> ResultT:
    from wedsync.kit.settings import Settings

    settings = Settings()
    url = _database_url(settings)
    pepper = settings.api_key_pepper.get_secret_value()

    async def run() -> ResultT:
        from wedsync.store.db.session import Database

        db = Database(url, pool_size=1)
        try:
            return await action(db, pepper)
        finally:
            await db.close()

    return asyncio.run(run())


def _database_url(settings: Settings) -> str:
    run = running_stack(settings.state_dir)
    url = settings.database_url or settings.database_owner_url or (str(run["database_url"]) if run else "")
    if not url:
        raise CliError("database_url_missing", "set WEDSYNC_DATABASE_URL, or start `wedsync up`", BAD_INPUT)
    return url


def _say_key(issued: IssuedKey) -> int:
    out.current().result(
        issued.model_dump(),
        f"organization: {issued.organization_id}",
        f"key id: {issued.key_id}",
        f"WEDSYNC_API_KEY={issued.api_key}",
        "Keep the key: it is shown this once, and only a fingerprint of it is stored.",
    )
    return out.ACCEPTED


def _table(found: list[Any]) -> Any:
    from rich.table import Table

    table = Table(pad_edge=False)
    for name in ("organization", "name", "key id", "key", "created", "revoked"):
        table.add_column(name)
    for one in found:
        for number, key in enumerate(one.keys or (None,)):
            who = (one.organization_id, one.name) if number == 0 else ("", "")
            what = ("", "", "", "")
            if key is not None:
                revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}Z" if key.revoked_at else ""
                what = (key.key_id, key.name, f"{key.created_at:%Y-%m-%d %H:%M}Z", revoked)
            table.add_row(*who, *what)
    return table
