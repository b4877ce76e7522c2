"""`wedsync undo | cancel | shift | decide | repair`: changes of a wedding that stands."""

from __future__ import annotations

import asyncio
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from wedsync.cli import output as out
from wedsync.cli.ask import (
    DONE,
    UNDONE,
    WAIT_SECONDS,
    TimeoutOption,
    WaitOption,
    WeddingArgument,
    change,
    new_key,
    resolve,
)
from wedsync.cli.client import ApiClient, Reply, locate, segment
from wedsync.cli.output import BAD_INPUT, CliError, JsonFlag

TransactionArgument = Annotated[str, typer.Argument(metavar="TX", help="The transaction's id.")]


class Choice(StrEnum):
    """Decision about a held step."""

    RETRY = "retry"
    SKIP = "skip"
    USE = "use"
    ROLLBACK = "rollback"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (undo, cancel, shift, decide, repair):
        app.command()(command)


def undo(
    wedding: WeddingArgument,
    transaction: TransactionArgument,
    wait: WaitOption = True,
    timeout: TimeoutOption = WAIT_SECONDS,
    as_json: JsonFlag = False,
) -> int:
    """Undo a transaction.

    What it booked is cancelled, what it took is paid back. Exits 0 when all was undone, 5 when something needs
    a person's attention, 6 when it is not there or can't be now.
    """

    async def post(client: ApiClient, wedding_id: str, key: str) -> Reply:
        path = f"/weddings/{wedding_id}/transactions/{segment(transaction)}/undo"
        return await client.request("POST", path, idempotency_key=key)

    return change(wedding, post, verb="undo", wanted=UNDONE, wait=wait, timeout_seconds=timeout)


def cancel(
    wedding: WeddingArgument,
    transaction: Annotated[
        str | None, typer.Argument(metavar="[TX]", help="Only this transaction; without it the whole wedding.")
    ] = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = WAIT_SECONDS,
    as_json: JsonFlag = False,
) -> int:
    """Cancel a wedding, or one transaction of it.

    What was done is undone. Exits 0 when all was undone, 5 when something needs a person's attention.
    """

    async def post(client: ApiClient, wedding_id: str, key: str) -> Reply:
        if transaction is None:
            return await client.request("DELETE", f"/weddings/{wedding_id}", idempotency_key=key)
        path = f"/weddings/{wedding_id}/transactions/{segment(transaction)}/cancel"
        return await client.request("POST", path, idempotency_key=key)

    return change(wedding, post, verb="cancel", wanted=UNDONE, wait=wait, timeout_seconds=timeout)


def shift(
    wedding: WeddingArgument,
    to: Annotated[str, typer.Option("--to", metavar="WALLTIME", help="The venue's wall time: 2027-06-26T16:00.")],
    zone: Annotated[str | None, typer.Option("--zone", help="The venue's IANA zone, when it changes too.")] = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = WAIT_SECONDS,
    as_json: JsonFlag = False,
) -> int:
    """Move the ceremony, at every vendor or at none.

    Exits 0 when moved, 3 when put back, 4 when held, 5 when something needs a person's attention.
    """
    body: dict[str, Any] = {"kind": "timeline", "ceremony_at": _wall_time(to)}
    if zone is not None:
        body["zone"] = _known_zone(zone)

    async def post(client: ApiClient, wedding_id: str, key: str) -> Reply:
        return await client.request("POST", f"/weddings/{wedding_id}/transactions", body=body, idempotency_key=key)

    return change(wedding, post, verb="shift", wanted=DONE, wait=wait, timeout_seconds=timeout)


def decide(
    wedding: WeddingArgument,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The held step's id.")],
    choice: Annotated[Choice, typer.Argument(metavar="CHOICE", help="retry, skip, use or rollback.")],
    vendor: Annotated[str | None, typer.Option("--vendor", help="For `use`: the vendor to go to.")] = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = WAIT_SECONDS,
    as_json: JsonFlag = False,
) -> int:
    """Decide about a step that is held.

    Try again, skip it, use another vendor, or roll back. Exits by how the transaction then ends: 0 as decided,
    3 rolled back, 4 held again, 5 needs attention.
    """
    if (choice is Choice.USE) != (vendor is not None):
        detail = "`use` needs --vendor" if choice is Choice.USE else "--vendor goes with `use` only"
        raise CliError("invalid_input", detail, BAD_INPUT, [{"field": "--vendor", "code": "vendor", "detail": detail}])
    body = {"choice": choice.value} | ({"vendor": vendor} if vendor else {})

    async def post(client: ApiClient, wedding_id: str, key: str) -> Reply:
        path = f"/weddings/{wedding_id}/steps/{segment(step)}/decision"
        return await client.request("POST", path, body=body, idempotency_key=key)

    wanted = UNDONE if choice is Choice.ROLLBACK else DONE
    return change(wedding, post, verb="decide", wanted=wanted, wait=wait, timeout_seconds=timeout)


def repair(wedding: WeddingArgument, as_json: JsonFlag = False) -> int:
    """Rebuild what is shown of a wedding.

    From its workflow, which always knows.
    """
    return asyncio.run(_repair(wedding))


async def _repair(wedding: str) -> int:
    async with ApiClient(locate()) as client:
        wedding_id = await resolve(client, wedding)
        reply = await client.request("POST", f"/weddings/{wedding_id}/repair", idempotency_key=new_key("repair"))
    found = reply.body if isinstance(reply.body, dict) else {}
    out.current().result({"wedding_id": wedding_id, **found}, f"repair: {wedding_id} rebuilt from its workflow")
    return out.ACCEPTED


def _wall_time(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None or "T" not in text:
        detail = f"{text!r} is not a wall time like 2027-06-26T16:00, without offset"
        raise CliError(
            "invalid_input", detail, BAD_INPUT, [{"field": "--to", "code": "invalid_time", "detail": detail}]
        )
    return text


def _known_zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        detail = f"{name!r} is not an IANA zone"
        errors = [{"field": "--zone", "code": "unknown_zone", "detail": detail}]
        raise CliError("invalid_input", detail, BAD_INPUT, errors) from None
