"""Requests a change of a wedding from the API, waits for its outcome and prints it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.client import ApiClient, Reply, locate, segment
from wedsync.cli.follow import SETTLED, Follower, Snapshot
from wedsync.cli.output import CliError

WAIT_SECONDS = 600.0
_ULID = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}$")

WeddingArgument = Annotated[str, typer.Argument(metavar="W", help="The wedding: its id, or its plan's own id.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait; what still waits then is accepted."),
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outcome, or return once accepted.")]

#: Every undo was done, whatever the API calls the transaction that did it.
UNDONE = frozenset({"rolled_back", "completed", "cancelled"})
DONE = frozenset({"completed"})

Post = Callable[[ApiClient, str, str], Awaitable[Reply]]


#: What an API's transaction says when it was stopped because somebody asked for it.
_ON_REQUEST = frozenset({"cancelled", "undone"})


def reason_of(transaction: dict[str, Any]) -> dict[str, Any] | None:
    """Return why a transaction failed: `{code, detail}`; None when it did not, or was stopped on request."""
    error = transaction.get("error") or {}
    return error if error and error.get("code") not in _ON_REQUEST else None


def exit_code(transaction: dict[str, Any], wanted: frozenset[str]) -> int:
    """Return the exit code of a transaction as it stands, given which statuses were asked for.

    A change that the wedding refused when its turn came is `cancelled` with a reason; a move back that failed is
    `rolled_back` with one: neither is what was asked for.
    """
    status = str(transaction.get("status", ""))
    if status not in SETTLED:
        return out.ACCEPTED
    reason = reason_of(transaction)
    if status == "cancelled" and reason is not None:
        return out.CONFLICT
    if status in wanted and reason is None:
        return out.ACCEPTED
    if status == "held":
        return out.HELD
    if status == "completed":
        return out.ACCEPTED
    return out.NEEDS_ATTENTION if status == "needs_attention" else out.ROLLED_BACK


def new_key(verb: str) -> str:
    """Make an idempotency key for one run of a command."""
    return f"{verb}:{secrets.token_hex(16)}"


async def resolve(client: ApiClient, wedding: str) -> str:
    """Return the id of a wedding given by its id or by its plan's own id; raises CliError (6) when there is none."""
    if _ULID.match(wedding):
        return wedding
    return str((await client.get(f"/weddings/{segment(wedding)}"))["id"])


def transaction_of(reply: Reply) -> str | None:
    """Return the id of the transaction that an answer speaks of: by its `Location`, else by its body."""
    path, marker, tail = reply.location.partition("/transactions/")
    if marker and path:
        return re.split(r"[/?]", tail)[0]
    body = reply.body if isinstance(reply.body, dict) else {}
    found = body.get("transaction_id") or (body.get("id") if "wedding_id" in body else None)
    return str(found) if found else None


def change(wedding: str, post: Post, *, verb: str, wanted: frozenset[str], wait: bool, timeout_seconds: float) -> int:
    """Post a change, wait for its outcome if wished, print it, and return the exit code."""
    return asyncio.run(_change(wedding, post, verb, wanted, wait, timeout_seconds))


async def _change(
    wedding: str, post: Post, verb: str, wanted: frozenset[str], wait: bool, timeout_seconds: float
) -> int:
    output = out.current()
    async with ApiClient(locate()) as client:
        wedding_id = await resolve(client, wedding)
        reply = await post(client, wedding_id, new_key(verb))
        transaction_id = transaction_of(reply)
        if not wait or transaction_id is None:
            body = reply.body if isinstance(reply.body, dict) else {}
            accepted = accepted_json(wedding_id, transaction_id, body)
            output.result(accepted, f"{verb}: accepted", *summary_lines(accepted))
            return out.ACCEPTED
        snapshot = await follow_shown(client, wedding_id, transaction_id, timeout_seconds)
    return conclude(snapshot, transaction_id, wedding_id, verb, wanted)


async def follow_shown(client: ApiClient, wedding_id: str, transaction_id: str, timeout_seconds: float) -> Snapshot:
    """Show a transaction until it has settled or the time is up, and return its last state."""
    from wedsync.cli.screen import Screen

    follower = Follower(client, wedding_id, transaction_id)
    with Screen(out.current()) as screen:
        return await follower.until(lambda seen: seen.settled, timeout_seconds=timeout_seconds, on_change=screen.update)


def conclude(snapshot: Snapshot, transaction_id: str, wedding_id: str, verb: str, wanted: frozenset[str]) -> int:
    """Print how it ended and return the exit code; raises CliError (6) when the wedding refused it at its turn."""
    transaction = snapshot.transaction
    code, reason = exit_code(transaction, wanted), reason_of(transaction)
    if code == out.CONFLICT and reason is not None:
        raise CliError(str(reason["code"]), str(reason["detail"]), code)
    found = accepted_json(wedding_id, transaction_id, transaction)
    words = snapshot.status.replace("_", " ")
    gaps = transaction.get("gaps") or []
    if gaps:
        words += f" with gaps: {', '.join(map(str, gaps))}"
    superseded = transaction.get("superseded") or []
    if superseded:
        words += f"; set anew since, and gone with it: {', '.join(map(str, superseded))}"
    if reason is not None:
        words += f": {reason['detail']}"
    out.current().result(found, f"{verb}: {words}", *summary_lines(found))
    return code


def accepted_json(wedding_id: str, transaction_id: str | None, transaction: dict[str, Any]) -> dict[str, Any]:
    """Build `{wedding_id, transaction_id, status, temporal_url, transaction}`."""
    return {
        "wedding_id": wedding_id,
        "transaction_id": transaction_id,
        "status": transaction.get("status"),
        "temporal_url": transaction.get("temporal_url"),
        "transaction": transaction or None,
    }


def summary_lines(found: dict[str, Any]) -> list[str]:
    """Build lines of the ids and the link to the Temporal UI."""
    names = (("wedding", "wedding_id"), ("transaction", "transaction_id"), ("Temporal", "temporal_url"))
    return [f"  {label:<12} {found[name]}" for label, name in names if found.get(name)]
