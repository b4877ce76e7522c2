"""`wedsync rehearse FILE`: the whole plan on a throwaway stack, and when each of its steps would be due."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.ask import DONE, exit_code, follow_shown
from wedsync.cli.client import ApiClient, Location
from wedsync.cli.follow import Snapshot
from wedsync.cli.output import JsonFlag
from wedsync.cli.plans import FileArgument, load
from wedsync.cli.run import create, orchestrate

if TYPE_CHECKING:
    from wedsync.domain.plans.plan import Plan, PlannedStep

Json = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(rehearse)


def rehearse(
    file: FileArgument,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait.")] = 120.0,
    as_json: JsonFlag = False,
) -> int:
    """Carry out a plan against stand-ins, all at once.

    On a stack of its own, which is thrown away. No vendor is called. Steps that have a time of their own are
    carried out at once too, after all that they need;
    the timetable shows when they would be due. Exits by how it ended: 0 completed, 3 rolled back, 4 held, 5 attention.
    """
    from wedsync.cli.local_stack import throwaway_stack
    from wedsync.kit.clock import utc_now

    plan = load(file)
    due = timetable(plan, utc_now())
    with throwaway_stack() as run:
        snapshot = asyncio.run(play(run, everything_now(plan), timeout))
    return report(plan, due, snapshot)


def everything_now(plan: Plan) -> Plan:
    """Return the plan without times of its own: a step that was due some time after another one now needs that one."""
    from wedsync.domain.plans.times import at_anchor

    steps = []
    for step in plan.steps:
        anchor = at_anchor(step.at)
        needs = step.needs if anchor is None or anchor in step.needs else (*step.needs, anchor)
        steps.append(step.model_copy(update={"at": None, "fold": None, "needs": needs}))
    return plan.model_copy(update={"steps": tuple(steps)})


def timetable(plan: Plan, now: datetime) -> dict[str, datetime]:
    """Return when each step would be due (UTC) if the plan started at `now` and each step were done when due."""
    from wedsync.domain.plans.compile import compile_plan
    from wedsync.domain.plans.times import At, due_at
    from wedsync.vendors.registry import load_registry

    due: dict[str, datetime] = {}
    for step in compile_plan(plan, load_registry().manifests):
        own = due_at(step, plan, due)
        due[step.id] = max([own.at if isinstance(own, At) else now, *_ends(step, due), now])
    return due


def _ends(step: PlannedStep, due: dict[str, datetime]) -> list[datetime]:
    return [due[name] for name in step.needs if name in due]


async def play(run: Json, plan: Plan, timeout_seconds: float) -> Snapshot:
    """Start `plan` on the stack that `run` describes and return how it ended."""
    async with ApiClient(Location(str(run["api_url"]), str(run["api_key"]), run)) as client:
        wedding_id = await create(client, plan)
        transaction_id, _ = await orchestrate(client, wedding_id, plan)
        return await follow_shown(client, wedding_id, transaction_id, timeout_seconds)


def report(plan: Plan, due: dict[str, datetime], snapshot: Snapshot) -> int:
    """Print what would happen when, and return the exit code."""
    from wedsync.cli.render import state_of

    zone = plan.wedding.ceremony.zone
    seen = {step["id"]: step for step in snapshot.steps}
    rows = [
        {
            "id": name,
            "due_at": instant.isoformat(),
            "action": seen[name]["action"] if name in seen else None,
            "vendor": seen[name].get("vendor") if name in seen else None,
            "status": seen[name]["status"] if name in seen else None,
            "outcome": state_of(seen[name]) if name in seen else "",
        }
        for name, instant in sorted(due.items(), key=lambda item: item[1])
    ]
    output = out.current()
    if output.json_mode:
        transaction = snapshot.transaction
        output.emit({"plan_id": plan.wedding.id, "status": snapshot.status, "steps": rows, "transaction": transaction})
    else:
        output.show(_table(rows, zone))
        output.say(f"rehearsal: {snapshot.status.replace('_', ' ')}")
    return exit_code(snapshot.transaction, DONE)


def _table(rows: list[Json], zone: str) -> Any:
    from rich.table import Table

    from wedsync.cli.render import venue_time

    table = Table(title="timetable", title_justify="left", pad_edge=False)
    for name in (f"due ({zone})", "step", "action", "vendor", "outcome"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        words = (row["id"], row["action"] or "", row["vendor"] or "", row["outcome"].replace("_", " "))
        table.add_row(venue_time(row["due_at"], zone), *words)
    return table
