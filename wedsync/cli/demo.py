"""`wedsync demo`: three weddings on this machine, live in the terminal, each checked against how it should end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.ask import follow_shown
from wedsync.cli.client import ApiClient, Location, segment
from wedsync.cli.demo_scenes import SCENES, Check, Scene, Seen, first_payment_vendor, new_suffix, plan_for
from wedsync.cli.local_stack import borrowed_stack
from wedsync.cli.output import INTERNAL, JsonFlag
from wedsync.cli.run import create, orchestrate
from wedsync.cli.stand_ins import StandIns

#: A scene that has not settled by then has failed.
SCENE_SECONDS = 45.0
#: Within it every process has heard of a circuit's change.
KNOWN_SECONDS = 1.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """Result of one scene."""

    scene: Scene
    wedding_id: str
    transaction_id: str
    temporal_url: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Tell whether it ended as it should."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> Json:
        """Build `{title, wedding_id, transaction_id, temporal_url, ok, seconds, checks[]}`."""
        return {
            "title": self.scene.title,
            "wedding_id": self.wedding_id,
            "transaction_id": self.transaction_id,
            "temporal_url": self.temporal_url,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "checks": [check.as_json() for check in self.checks],
        }


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(demo)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", envvar="KEEP", help="Leave the stack running until `wedsync down`.")
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Run three weddings here and show them live.

    On real Temporal and Postgres, with stand-ins for the vendors: all well; a payment vendor down; a venue that
    refuses. Exits 0 when all three ended as they should, else 1.
    """
    output = out.current()
    began = time.monotonic()
    with borrowed_stack(keep=keep) as run:
        output.say(f"API {run['api_url']}   Temporal UI {run['temporal_ui_url']}")
        played = asyncio.run(play_all(run))
    return report(played, time.monotonic() - began, str(run["temporal_ui_url"]) if keep else "")


async def play_all(run: Json) -> list[Played]:
    """Play the scenes one after the other on the stack that `run` describes."""
    location = Location(str(run["api_url"]), str(run["api_key"]), run)
    suffix = new_suffix()
    async with ApiClient(location) as client, StandIns(str(run["sandbox_url"])) as stand_ins:
        return [
            await play(client, stand_ins, number, scene, f"{suffix}{number}")
            for number, scene in enumerate(SCENES, start=1)
        ]


async def play(client: ApiClient, stand_ins: StandIns, number: int, scene: Scene, suffix: str) -> Played:
    """Play one scene and check how it ended."""
    output = out.current()
    began = time.monotonic()
    plan = plan_for(scene, suffix)
    broken = first_payment_vendor(plan) if scene.payments_down else None
    output.say(f"\n{number}. {scene.title} ({plan.wedding.id}, {len(plan.steps)} steps in the plan)")
    await bring_back(client, {vendor for service in plan.services for vendor in (service.vendor, *service.fallbacks)})
    wedding_id = await create(client, plan)
    try:
        if broken:
            await stand_ins.break_down(broken, wedding_id)
            output.say(f"   {broken} is down")
        transaction_id, _ = await orchestrate(client, wedding_id, plan)
        snapshot = await follow_shown(client, wedding_id, transaction_id, SCENE_SECONDS)
        seen = Seen(plan, snapshot, await stand_ins.active(wedding_id))
    finally:
        if broken:
            await stand_ins.mend(broken)
    if broken:
        # What comes next here, in the demo or after it, finds the vendor as it was.
        await bring_back(client, {broken})
    url = str(snapshot.transaction.get("temporal_url") or "")
    checks = tuple(check(seen) for check in scene.checks)
    played = Played(scene, wedding_id, transaction_id, url, checks, time.monotonic() - began)
    for line in _lines(played):
        output.say(line)
    return played


async def bring_back(client: ApiClient, vendors: Set[str]) -> None:
    """Close the circuits that earlier trouble left open, so that a scene begins with vendors that are trusted.

    Circuits that a person forced or holds stay as they are.
    """
    cut_off = [
        (str(service["service"]), str(circuit["endpoint"]))
        for service in (await client.get("/services"))["data"]
        for circuit in service["circuits"]
        if service["service"] in vendors and circuit["state"] != "closed" and not (circuit["forced"] or circuit["held"])
    ]
    for service, endpoint in cut_off:
        for state in ("closed", "auto"):
            path = f"/services/{segment(service)}/circuit"
            await client.request("PUT", path, body={"endpoint": endpoint, "state": state})
        out.current().say(f"   {service} is well again and used again")
    if cut_off:
        await asyncio.sleep(KNOWN_SECONDS)


def _lines(played: Played) -> list[str]:
    lines = [
        f"   {'ok    ' if one.ok else 'WRONG '} expected: {one.expected}; seen: {one.seen}" for one in played.checks
    ]
    return [*lines, f"   Temporal: {played.temporal_url}"]


def report(played: list[Played], seconds: float, ui_url: str) -> int:
    """Print how all of it went and return the exit code."""
    ok = len(played) == len(SCENES) and all(one.ok for one in played)
    found = {"ok": ok, "seconds": round(seconds, 1), "scenes": [one.as_json() for one in played]}
    good = sum(1 for one in played if one.ok)
    lines = ["", f"{good} of {len(SCENES)} weddings ended as they should, in {seconds:.0f} s"]
    if ui_url:
        lines.append(f"the stack stays up, Temporal UI {ui_url}; stop it with `make down` (or `wedsync down`)")
    out.current().result(found, *lines)
    return out.ACCEPTED if ok else INTERNAL
