"""`wedsync status | watch`: weddings as they stand, and as they move."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.ask import DONE, UNDONE, WeddingArgument, exit_code, resolve
from wedsync.cli.client import ApiClient, StreamEvent, locate
from wedsync.cli.follow import OPEN, WEDDING_OVER, Follower, Snapshot
from wedsync.cli.output import JsonFlag


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(status)
    app.command()(watch)


def status(
    wedding: Annotated[str | None, typer.Argument(metavar="[W]", help="One wedding; without it, all of them.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="How many to list.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where to go on, as the last list said.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """List the weddings, or show one.

    Its steps, what comes later and when (in the venue's time), what was undone.
    """
    return asyncio.run(_list(limit, cursor) if wedding is None else _show(wedding))


async def _list(limit: int, cursor: str | None) -> int:
    from wedsync.cli.render import weddings_table

    async with ApiClient(locate()) as client:
        page = await client.get("/weddings", limit=str(limit), **({"cursor": cursor} if cursor else {}))
    output = out.current()
    if output.json_mode:
        output.emit(page)
        return out.ACCEPTED
    if not page["data"]:
        output.say("no weddings yet: start one with `wedsync run FILE`")
        return out.ACCEPTED
    output.show(weddings_table(page["data"]))
    if page.get("next_cursor"):
        output.say(f"more: wedsync status --cursor {page['next_cursor']}")
    return out.ACCEPTED


async def _show(wedding: str) -> int:
    from wedsync.cli.render import controller

    async with ApiClient(locate()) as client:
        wedding_id = await resolve(client, wedding)
        snapshot = await Follower(client, wedding_id).poll()
    output = out.current()
    if output.json_mode:
        output.emit({**snapshot.wedding, "steps": snapshot.steps, "transaction": snapshot.transaction or None})
        return out.ACCEPTED
    output.say(f"{snapshot.wedding['reference']} ({wedding_id}): {snapshot.wedding['status']}")
    output.show(controller(snapshot))
    for transaction in snapshot.wedding["transactions"]:
        output.say(f"{transaction['id']}  {transaction['kind']}  {transaction['status']}")
    if snapshot.transaction.get("temporal_url"):
        output.say(f"Temporal: {snapshot.transaction['temporal_url']}")
    return out.ACCEPTED


def watch(
    wedding: WeddingArgument,
    forever: Annotated[bool, typer.Option("--forever", help="Stay until the wedding has ended or ^C.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop watching after so long.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show a wedding live.

    Until nothing of it is under way; what comes later stays in its agenda. Exits by how its newest transaction
    stands: 0 well or still open, 3 rolled back, 4 held, 5 needs attention.
    """
    return asyncio.run(_watch(wedding, forever, timeout))


def at_rest(snapshot: Snapshot) -> bool:
    """Tell whether nothing of the wedding is under way."""
    statuses = {str(item["status"]) for item in snapshot.wedding["transactions"]} | {snapshot.status}
    return over(snapshot) or not statuses & OPEN


def over(snapshot: Snapshot) -> bool:
    """Tell whether the wedding itself has ended."""
    return snapshot.wedding.get("status") in WEDDING_OVER and snapshot.status not in OPEN


async def _watch(wedding: str, forever: bool, timeout_seconds: float | None) -> int:
    from wedsync.cli.screen import Screen

    output = out.current()

    def line(event: StreamEvent) -> None:
        if output.json_mode:
            output.emit({"id": event.id, "type": event.type, "data": event.data})

    async with ApiClient(locate()) as client:
        wedding_id = await resolve(client, wedding)
        follower = Follower(client, wedding_id)
        with Screen(output) as screen:
            snapshot = await follower.until(
                over if forever else at_rest,
                timeout_seconds=timeout_seconds,
                on_change=screen.update,
                on_event=line,
            )
    if output.json_mode:
        output.emit({"id": None, "type": "end", "data": _end(snapshot)})
    else:
        output.say(f"{snapshot.transaction.get('kind', '')} {snapshot.status}".replace("_", " ").strip())
    return exit_code(snapshot.transaction, _wanted(snapshot))


def _end(snapshot: Snapshot) -> dict[str, Any]:
    return {"wedding_id": snapshot.wedding.get("id"), "transaction": snapshot.transaction or None}


def _wanted(snapshot: Snapshot) -> frozenset[str]:
    return UNDONE if snapshot.transaction.get("kind") == "undo" else DONE
