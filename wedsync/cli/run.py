"""`wedsync run FILE`: a plan handed in and its orchestration started."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.ask import (
    DONE,
    WAIT_SECONDS,
    TimeoutOption,
    accepted_json,
    conclude,
    follow_shown,
    summary_lines,
    transaction_of,
)
from wedsync.cli.client import ApiClient, locate
from wedsync.cli.output import CONFLICT, INTERNAL, CliError, JsonFlag
from wedsync.cli.plans import FileArgument, load

if TYPE_CHECKING:
    from wedsync.domain.plans.plan import Plan


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(run)


def run(
    file: FileArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it has settled.")] = False,
    timeout: TimeoutOption = WAIT_SECONDS,
    as_json: JsonFlag = False,
) -> int:
    """Hand in a wedding plan and start booking. The plan is checked first; a wrong one starts nothing.

    Running the same file again starts nothing twice. Exits 0 once accepted; with --watch by how it ended:
    0 completed (or still waiting when the time is up), 3 rolled back, 4 held, 5 needs attention.
    """
    return asyncio.run(_run(load(file), watch, timeout))


def content_key(plan: Plan) -> str:
    """Derive the key of a repeated command from the plan's id and a hash of all it says."""
    digest = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()
    return f"{plan.wedding.id}:{digest[:32]}"


async def create(client: ApiClient, plan: Plan) -> str:
    """Hand in `plan` and return the wedding's id; the same again for the same plan.

    Raises CliError: 6 when another plan with this id stands already.
    """
    body = plan.model_dump(mode="json", exclude_unset=True)
    try:
        reply = await client.request("POST", "/weddings", body=body, idempotency_key=f"create:{content_key(plan)}")
    except CliError as error:
        if error.exit_code == CONFLICT:
            hint = f"{error.detail} (see it with `wedsync status {plan.wedding.id}`, or give this plan another id)"
            raise CliError(error.code, hint, CONFLICT, error.errors) from None
        raise
    return str(reply.body["id"])


async def orchestrate(client: ApiClient, wedding_id: str, plan: Plan) -> tuple[str, dict[str, Any]]:
    """Start booking: `(transaction id, transaction)`; the same again for the same plan."""
    reply = await client.request(
        "POST",
        f"/weddings/{wedding_id}/transactions",
        body={"kind": "orchestrate"},
        idempotency_key=f"orchestrate:{content_key(plan)}",
    )
    transaction_id = transaction_of(reply)
    if transaction_id is None:
        raise CliError("internal", "the API's answer names no transaction", INTERNAL)
    return transaction_id, reply.body if isinstance(reply.body, dict) else {}


async def _run(plan: Plan, watch: bool, timeout_seconds: float) -> int:
    output = out.current()
    async with ApiClient(locate()) as client:
        wedding_id = await create(client, plan)
        transaction_id, transaction = await orchestrate(client, wedding_id, plan)
        accepted = accepted_json(wedding_id, transaction_id, transaction)
        if not watch:
            output.result(accepted, f"{plan.wedding.id}: accepted", *summary_lines(accepted))
            return out.ACCEPTED
        if not output.json_mode:
            for line in (f"{plan.wedding.id}: accepted", *summary_lines(accepted)):
                output.say(line)
        snapshot = await follow_shown(client, wedding_id, transaction_id, timeout_seconds)
    return conclude(snapshot, transaction_id, wedding_id, "run", DONE)
