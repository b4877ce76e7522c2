"""Decide what a migration from one version of a vendor's API to another does next. Pure; time is an argument.

prepare, shadow, canary, verify, done; each of them can go back, with the pins as they were: a migration lays its pin
over the existing ones and removes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wedsync.domain.value import Value
from wedsync.domain.vendors.call import Effect
from wedsync.domain.vendors.manifest import Manifest, VersionSpec
from wedsync.domain.versions.selection import FACT, is_sunset

Stage = Literal["prepare", "shadow", "canary", "verify", "done", "rolled_back"]

MIGRATE_VERSION_WORKFLOW = "MigrateVendorVersion"
#: Signal of `MigrateVendorVersion`: the row has changed, read it.
WAKE_SIGNAL = "look"
ENDED: tuple[Stage, ...] = ("done", "rolled_back")
#: Nothing is moved so long before and after the ceremony of a wedding that depends on the service.
FREEZE_BEFORE, FREEZE_AFTER = timedelta(hours=48), timedelta(hours=12)
#: A paused migration checks so often whether it missed a signal.
IDLE_WAKE = timedelta(hours=1)
#: So many standard errors above the old version the new one must fail to count: a bad day of both is none.
_CERTAINTY = 3.0
#: While no read was answered by both versions, the shadow lasts so many times as long.
_PATIENCE = 3.0


class MigrationRules(Value):
    """Limits that keep a migration careful; lengths in seconds."""

    shadow_seconds: Annotated[float, Field(ge=1, le=30 * 86_400)] = 3_600.0
    #: Number of objects, the newest ones, that each check reads by both versions.
    shadow_reads: Annotated[int, Field(ge=1, le=500)] = 50
    #: The share of reads that may differ.
    most_different: Annotated[float, Field(ge=0, le=1)] = 0.0
    canary_percent: Annotated[int, Field(ge=1, le=99)] = 10
    canary_seconds: Annotated[float, Field(ge=1, le=30 * 86_400)] = 43_200.0
    verify_seconds: Annotated[float, Field(ge=1, le=30 * 86_400)] = 43_200.0
    look_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    #: Calls by the new version before its failures are judged.
    least_calls: Annotated[int, Field(ge=1, le=10_000)] = 5
    #: How far its share of failed calls may lie above the old version's.
    most_failing_above: Annotated[float, Field(ge=0, le=1)] = 0.02
    #: The share of calls that may have failed in the hour before the start.
    error_budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    #: It waits for freeze windows no longer than this, in all stages together.
    longest_wait_seconds: Annotated[float, Field(ge=0, le=90 * 86_400)] = 14 * 86_400.0

    @property
    def risky(self) -> timedelta:
        """Return how long weddings' calls use the new version on trial."""
        return timedelta(seconds=self.canary_seconds + self.verify_seconds)


class Migration(Value):
    """A migration as its row says. Times are the workflow's own, but for `observed_from`."""

    id: str
    service: str
    #: None: for every organization without a pin of its own.
    organization_id: str | None = None
    #: The operator's organization, in whose name its moves are audited.
    operator_id: str = ""
    from_version: str
    to_version: str
    rules: MigrationRules = MigrationRules()
    stage: Stage = "prepare"
    stage_since: datetime
    #: Calls since then belong to the stage, by the wall clock.
    observed_from: datetime
    started_at: datetime
    ended_at: datetime | None = None
    paused: bool = False
    #: An operator wants it rolled back.
    rollback_asked: bool = False
    #: Since when it waits for a freeze window to pass; None: it does not.
    waits_since: datetime | None = None
    compared: int = 0
    different: int = 0
    #: What happened, for people, in order.
    steps: tuple[str, ...] = ()
    testing_required: tuple[str, ...] = ()
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing moves any more."""
        return self.stage in ENDED


class Seen(Value):
    """Observations of the present stage."""

    #: What forbids the migration, for people.
    obstacles: tuple[str, ...] = ()
    calls: int = 0
    failed: int = 0
    new_calls: int = 0
    new_failed: int = 0
    old_calls: int = 0
    old_failed: int = 0
    #: Objects at the vendor; how many reads were compared, and how many of them differ.
    readable: int = 0
    compared: int = 0
    different: int = 0
    #: The ceremonies of the weddings that depend on it.
    ceremonies: tuple[datetime, ...] = ()


class Move(Value):
    """A migration's next move."""

    kind: Literal["wait", "go"]
    #: For `go`.
    stage: Stage = "prepare"
    #: For `wait`.
    until: datetime | None = None
    why: str = ""
    #: It waits for a freeze window.
    is_frozen: bool = False


def obstacles(
    spec: VersionSpec | None, manifest: Manifest, to_version: str, from_version: str, today: datetime
) -> tuple[str, ...]:
    """List what forbids going to the version, before anything is tried."""
    if spec is None:
        return (f"{manifest.name} has no version {to_version!r}",)
    found = []
    if to_version == from_version:
        found.append(f"{manifest.name} is at {to_version} already")
    if not spec.wedding_compatible:
        found.append(f"{to_version} is not for weddings")
    if is_sunset(spec, today.date()):
        found.append(f"{to_version} is past its sunset")
    if not spec.backward_compatible and not spec.migration_guide:
        found.append(f"{to_version} is not backward compatible and names no migration guide")
    return tuple(found)


def testing_required(spec: VersionSpec | None, manifest: Manifest) -> tuple[str, ...]:
    """List the actions to rehearse in the sandbox first: all that write, if the version is not backward compatible."""
    if spec is None or spec.backward_compatible:
        return ()
    return tuple(a.name for a in manifest.actions if any(not operation.read for operation in a.operations))


def free_at(ceremonies: Iterable[datetime], now: datetime, length: timedelta) -> datetime:
    """Return the first moment from `now` on after which no freeze window lies within `length`."""
    free = now
    for ceremony in sorted(ceremonies):
        if ceremony - FREEZE_BEFORE < free + length and free < ceremony + FREEZE_AFTER:
            free = ceremony + FREEZE_AFTER
    return free


def next_move(m: Migration, seen: Seen, now: datetime) -> Move:
    """Decide what the migration does at `now`.

    It can always go back, even in a freeze window. A paused migration goes back when it fails, and never ahead.
    """
    if m.has_ended:
        return Move(kind="wait", why=m.reason)
    if (back := _way_back(m, seen)) is not None:
        return Move(kind="go", stage="rolled_back", why=back)
    if m.paused:
        return Move(kind="wait", until=now + IDLE_WAKE, why="paused by hand")
    match m.stage:
        case "prepare":
            return Move(kind="go", stage="shadow", why="nothing forbids it")
        case "shadow":
            return _after_shadow(m, seen, now)
        case "canary":
            due = _due(m, m.rules.canary_seconds)
            if now < due:
                return _wake_again(m, now, due, "while some weddings' calls go by the new version")
            length = timedelta(seconds=m.rules.verify_seconds)
            return _unless_frozen(m, seen, now, length, "verify", "the canary is well")
        case _:
            due = _due(m, m.rules.verify_seconds)
            if now < due:
                return _wake_again(m, now, due, "while all calls by the new version are watched")
            return Move(kind="go", stage="done", why="all is well")


def _after_shadow(m: Migration, seen: Seen, now: datetime) -> Move:
    due = _due(m, m.rules.shadow_seconds)
    if now < due:
        return _wake_again(m, now, due, "while reads are compared")
    if not m.compared + seen.compared:
        last = _due(m, m.rules.shadow_seconds * _PATIENCE)
        if seen.readable and now < last:
            return _wake_again(m, now, last, "until a read is answered by both versions")
        return Move(kind="go", stage="rolled_back", why="nothing could be compared")
    return _unless_frozen(m, seen, now, m.rules.risky, "canary", "the reads agree")


def _way_back(m: Migration, seen: Seen) -> str | None:
    if m.rollback_asked:
        return "asked by an operator"
    if seen.obstacles:
        return seen.obstacles[0]
    rules = m.rules
    if m.stage == "prepare" and seen.calls >= rules.least_calls and seen.failed / seen.calls > rules.error_budget:
        return f"the error budget is spent: {seen.failed} of {seen.calls} calls failed in the last hour"
    compared, different = m.compared + seen.compared, m.different + seen.different
    if compared and different / compared > rules.most_different:
        return f"{different} of {compared} reads differ"
    if m.stage in ("canary", "verify") and _is_failing(rules, seen):
        return f"{seen.new_failed} of {seen.new_calls} calls by {m.to_version} failed"
    return None


def _is_failing(rules: MigrationRules, seen: Seen) -> bool:
    if seen.new_calls < rules.least_calls:
        return False
    if not seen.old_calls:
        return seen.new_failed / seen.new_calls > rules.most_failing_above
    old, new = seen.old_failed / seen.old_calls, seen.new_failed / seen.new_calls
    both = (seen.old_failed + seen.new_failed) / (seen.old_calls + seen.new_calls)
    noise = math.sqrt(both * (1 - both) * (1 / seen.old_calls + 1 / seen.new_calls))
    return new > old + rules.most_failing_above + _CERTAINTY * noise


def _due(m: Migration, seconds: float) -> datetime:
    return m.stage_since + timedelta(seconds=seconds)


def _wake_again(m: Migration, now: datetime, due: datetime, why: str) -> Move:
    return Move(kind="wait", until=min(due, now + timedelta(seconds=m.rules.look_seconds)), why=why)


def _unless_frozen(m: Migration, seen: Seen, now: datetime, length: timedelta, stage: Stage, why: str) -> Move:
    free = free_at(seen.ceremonies, now, length)
    if free <= now:
        return Move(kind="go", stage=stage, why=why)
    give_up = (m.waits_since or now) + timedelta(seconds=m.rules.longest_wait_seconds)
    if now >= give_up:
        return Move(kind="go", stage="rolled_back", why="no time was found between the weddings that depend on it")
    return Move(kind="wait", until=min(free, give_up), why="until a wedding's freeze window is over", is_frozen=True)


def differences(old: Effect | None, new: Effect | None) -> tuple[str, ...]:
    """List where two answers to one read differ, in names only: facts may hold what logs must not."""
    if old is None or new is None:
        return () if old is new else ("answer",)
    found = [name for name in ("state", "external_id") if getattr(old, name) != getattr(new, name)]
    here, there = _facts(old), _facts(new)
    found += [f"facts.{name}" for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    return tuple(found)


def _facts(effect: Effect) -> dict[str, JsonValue]:
    return {name: value for name, value in effect.facts.items() if name not in (FACT, "endpoint")}


class MigrationStart(Value):
    """Input of `MigrateVendorVersion`."""

    migration_id: str
    #: Wakes of the runs before this one.
    wakes: int = 0


class MigrationWake(Value):
    """A migration's request to find and do what is due at `now`, the migration's own time."""

    migration_id: str
    now: datetime


class MigrationWakeResult(Value):
    """Acts of a migration, and the time before which nothing is due; None: it has ended."""

    until: datetime | None
    why: str
    stage: Stage
    steps: tuple[str, ...] = ()
    testing_required: tuple[str, ...] = ()


class MigrationResult(Value):
    """Result of a migration."""

    outcome: Literal["done", "rolled_back"]
    reason: str
    migration_steps: tuple[str, ...]
    testing_required: tuple[str, ...]
    #: Whether it could still be rolled back; an ended one needs another migration for that.
    rollback_available: bool = False


def migration_workflow_id(migration_id: str) -> str:
    """Return the workflow id, which lets only one workflow live per migration."""
    return f"migration:{migration_id}"
