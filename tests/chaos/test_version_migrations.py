"""Seeded migrations between versions of Stripe's API by the real workflow: faults, freezes, crashes, regrets."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tests.support.migrations import BROKEN, NEW, SERVICE, Migrating, open_migrating, payment_call
from tests.support.routing import rows
from tests.support.stages import SkippingStage, _skipping_stage, puppet, skipping, stage_sandbox
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, WedsyncError
from wedsync.domain.versions.migration import MigrationWake
from wedsync.kit.clock import utc_now
from wedsync.store.versions import queries as versions
from wedsync.usecases.versions import request_migration
from wedsync.usecases.versions.advance_migration import migrate_version as act_on_wake

__all__ = ["_skipping_stage", "puppet", "skipping", "stage_sandbox"]

SEEDS, SAMPLE, AT_ONCE = 200, 20, 8
KINDS = ("plain", "broken", "regret", "frozen", "flapping", "briefly_down", "crashes", "traffic")


@dataclass
class Run:
    """How one seed ended."""

    seed: int
    kind: str
    outcome: str
    reason: str
    before: list[Any]
    after: list[Any]

    @property
    def must_go_back(self) -> bool:
        """Whether an incompatibility was injected, or an operator changed their mind."""
        return self.kind in ("broken", "regret")

    @property
    def is_consistent(self) -> bool:
        """Done: one standing pin to the new version. Rolled back: the pins as they were."""
        if self.outcome == "done":
            return [pin[1:] for pin in self.after] == [(NEW, 100, "")]
        return self.after == self.before


async def _run(migrating: Migrating, seed: int) -> Run:
    draw = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    ceremony_at = utc_now() + timedelta(hours=draw.uniform(-6, 52)) if kind == "frozen" else None
    wedding = await migrating.wedding(ceremony_at, payments=draw.randint(1, 2))
    organization = wedding.organization_id
    if draw.random() < 0.4:
        async with migrating.controller.breakers.db.system() as conn:
            await versions.pin(conn, SERVICE, organization, "2026-07-29.dahlia", "key:test", utc_now())
    before = await migrating.pins(organization)
    await _hurt(migrating, wedding.id, kind, draw)
    migration = await migrating.begin(organization, BROKEN if kind == "broken" else NEW)
    if kind == "regret":
        await migrating.until(migration, draw.choice(["prepare", "shadow", "canary", "verify"]), "rolled_back", "done")
        principal = Principal(organization_id=organization, key_id="test")
        await request_migration.request_move(
            migrating.stage.db, migrating.stage.client, principal, migration, rollback=True
        )
    elif kind == "crashes":
        await _crash(migrating, migration, draw)
    elif kind == "traffic":
        await migrating.until(migration, "canary", "rolled_back")
        for _ in range(5):
            with suppress(WedsyncError):
                await migrating.gateway.send(payment_call(organization, wedding.id))
    result = await migrating.end(migration)
    return Run(seed, kind, result.outcome, result.reason, before, await migrating.pins(organization))


async def _hurt(migrating: Migrating, wedding_id: str, kind: str, draw: random.Random) -> None:
    sandbox = migrating.stage.sandbox
    if kind == "flapping":
        await sandbox.faults(SERVICE, mode="flap", wedding_id=wedding_id, seed=draw.randint(1, 999), probability=0.2)
    elif kind == "briefly_down":
        await sandbox.faults(SERVICE, mode="down", wedding_id=wedding_id, times=draw.randint(1, 4))


async def _crash(migrating: Migrating, migration: str, draw: random.Random) -> None:
    """Workers that die in the middle of a look, again and again, while the workflow goes on."""
    for _ in range(6):
        migration_wake = MigrationWake(migration_id=migration, now=utc_now())
        with suppress(TimeoutError):
            async with asyncio.timeout(draw.uniform(0.001, 0.05)):
                await act_on_wake(migrating.gateway, migrating.controller, migration_wake)


async def test_all_but_the_incompatible_succeed_and_none_ends_half_way(
    skipping: SkippingStage, full: bool, report: list[dict[str, object]]
) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    async with open_migrating(skipping.stage, skipping.env) as migrating:
        await migrating.add_broken()

        async def one(seed: int) -> Run:
            async with gate:
                return await _run(migrating, seed)

        runs = await asyncio.gather(*(one(seed) for seed in range(SEEDS if full else SAMPLE)))
        left = await rows(migrating.controller, "SELECT id FROM version_migrations WHERE ended_at IS NULL")
        overlays = await rows(
            migrating.controller, "SELECT id FROM version_pins WHERE migration_id <> '' AND until IS NULL"
        )
    assert (left, overlays) == ([], [])
    assert [run for run in runs if not run.is_consistent] == []
    assert [run for run in runs if run.must_go_back and run.outcome == "done"] == []
    sound = [run for run in runs if not run.must_go_back]
    done = [run for run in sound if run.outcome == "done"]
    assert len(done) / len(sound) > 0.99, [run for run in sound if run.outcome != "done"]
    ends = Counter(run.outcome for run in runs)
    report.append(
        {"run": "version migrations", "seeds": len(runs), "completed": ends["done"], "rolled back": ends["rolled_back"]}
    )


async def test_a_migration_that_has_ended_can_not_be_taken_back(skipping: SkippingStage) -> None:
    async with open_migrating(skipping.stage, skipping.env) as migrating:
        wedding = await migrating.wedding()
        migration = await migrating.begin(wedding.organization_id)
        await migrating.end(migration)
        principal = Principal(organization_id=wedding.organization_id, key_id="test")
        with pytest.raises(Conflict):
            await request_migration.request_move(
                migrating.stage.db, migrating.stage.client, principal, migration, rollback=True
            )
