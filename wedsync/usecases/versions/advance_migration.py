"""Do a migration's work at each wake: observe, decide, and move pins and row in one transaction."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import VendorThrottled, VendorUnavailable, WedsyncError
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.versions import migration as rules
from wedsync.domain.versions.migration import Migration, MigrationWake, MigrationWakeResult, Move, Seen
from wedsync.domain.versions.selection import NOTICE
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.access import queries as access
from wedsync.store.versions import queries as versions

log = structlog.get_logger(__name__)

#: More moves than a migration has.
_MOST_MOVES = 16
#: A workflow that came before its row wakes again so soon.
_EARLY = timedelta(seconds=1)
_READS_AT_ONCE = 5
_READS_SECONDS = 120.0
_ERROR_BUDGET_RANGE = timedelta(hours=1)
#: The facts by which clients name an object that they inspect.
_NAMES = ("external_id", "payment_id", "booking_id", "message_id", "event_id")


async def migrate_version(
    gateway: VendorGateway, controller: AdmissionController, wake: MigrationWake
) -> MigrationWakeResult:
    """Do all that is due at `wake.now`. Idempotent: the row is the truth, pins move with it in one transaction.

    Raises StoreUnavailable.
    """
    await controller.routing_table.load()
    for _ in range(_MOST_MOVES):
        async with controller.breakers.db.system() as conn:
            found = await versions.read(conn, wake.migration_id)
        if found is None:
            return MigrationWakeResult(until=wake.now + _EARLY, why="not recorded yet", stage="prepare")
        if found[0].has_ended:
            return _result(found[0], None, found[0].reason)
        seen = await _observe(gateway, controller, found[0], wake.now)
        async with controller.breakers.db.system() as conn:
            now_is, move = await _move(conn, found[0], seen, wake)
        if move is None:
            continue
        if move.kind == "wait":
            return _result(now_is, move.until, move.why)
        log.info("version.migration", migration_id=now_is.id, service=now_is.service, stage=now_is.stage, why=move.why)
        await controller.routing_table.load()
        if not now_is.has_ended:
            return _result(now_is, wake.now, move.why)
    return _result(now_is, wake.now + _EARLY, "more to do")


def _result(m: Migration, until: datetime | None, why: str) -> MigrationWakeResult:
    return MigrationWakeResult(until=until, why=why, stage=m.stage, steps=m.steps, testing_required=m.testing_required)


async def _move(
    conn: AsyncConnection, observed: Migration, seen: Seen, wake: MigrationWake
) -> tuple[Migration, Move | None]:
    """Decide on the locked row and write what follows; None: the row has changed since it was observed."""
    found = await versions.read(conn, wake.migration_id, lock=True)
    if found is None or found[0].stage != observed.stage:
        return observed, None
    m, actor = found
    move = rules.next_move(m, seen, wake.now)
    counted = {"compared": m.compared + seen.compared, "different": m.different + seen.different}
    if move.kind == "wait":
        waits = (m.waits_since or wake.now) if move.is_frozen else None
        now_is = m.model_copy(update={**counted, "waits_since": waits})
    else:
        await _lay_pins(conn, m, move, actor)
        now_is = m.model_copy(
            update={
                **counted,
                "stage": move.stage,
                "stage_since": wake.now,
                "observed_from": utc_now() + NOTICE,
                "waits_since": None,
                "steps": (*m.steps, f"{move.stage}: {move.why}"),
                "reason": move.why,
                "ended_at": wake.now if move.stage in rules.ENDED else None,
            }
        )
        await _audit(conn, now_is, move, actor)
    await versions.save(conn, now_is)
    return now_is, move


async def _audit(conn: AsyncConnection, m: Migration, move: Move, actor: str) -> None:
    """Write the move into the audit log under the key that began the migration."""
    if m.operator_id:
        principal = Principal(organization_id=m.operator_id, key_id=actor.removeprefix("key:"))
        subject = f"service/{m.service}/migration/{m.id}"
        detail = {"why": move.why, "to_version": m.to_version, "organization_id": m.organization_id}
        await access.audit(conn, principal, f"version.migration_{move.stage}", subject, detail, utc_now())


async def _lay_pins(conn: AsyncConnection, m: Migration, move: Move, actor: str) -> None:
    """Lay the migration's pin over the one in effect, so that a rollback only removes it."""
    now = utc_now()
    scope = (conn, m.service, m.organization_id)
    match move.stage:
        case "canary":
            share = m.rules.canary_percent
            await versions.pin(*scope, m.to_version, actor, now, share_percent=share, migration_id=m.id)
        case "verify":
            await versions.pin(*scope, m.to_version, actor, now, migration_id=m.id)
        case "done":
            await versions.pin(*scope, m.to_version, actor, now)
            await versions.pin(*scope, None, actor, now, migration_id=m.id)
        case "rolled_back":
            await versions.pin(*scope, None, actor, now, migration_id=m.id)
        case _:
            return


async def _observe(gateway: VendorGateway, controller: AdmissionController, m: Migration, now: datetime) -> Seen:
    """Gather all that the present stage is judged by."""
    spec = controller.routing_table.versions(m.service).get(m.to_version)
    manifest = gateway.manifest(m.service)
    found: dict[str, Any] = {"obstacles": rules.obstacles(spec, manifest, m.to_version, m.from_version, utc_now())}
    if not found["obstacles"] and not m.rollback_asked and m.stage != "prepare":
        found |= await _compare(gateway, controller, m)
        await controller.call_recorder.flush()
    horizon = m.rules.risky + timedelta(seconds=m.rules.longest_wait_seconds) + rules.FREEZE_BEFORE
    since = utc_now() - _ERROR_BUDGET_RANGE if m.stage == "prepare" else m.observed_from
    async with controller.breakers.db.system() as conn:
        found["ceremonies"] = await versions.ceremonies(conn, m.service, m.organization_id, now, horizon)
        calls = await versions.calls_since(conn, m.service, m.organization_id, since)
    new, old = calls.get(m.to_version, (0, 0)), calls.get(m.from_version, (0, 0))
    found |= {"calls": sum(n for n, _ in calls.values()), "failed": sum(n for _, n in calls.values())}
    found |= {"new_calls": new[0], "new_failed": new[1], "old_calls": old[0], "old_failed": old[1]}
    return Seen(**found)


async def _compare(gateway: VendorGateway, controller: AdmissionController, m: Migration) -> dict[str, int]:
    """Read the newest objects by both versions; return how many were compared and how many differed."""
    async with controller.breakers.db.system() as conn:
        rows = await versions.objects(conn, m.service, m.organization_id, m.rules.shadow_reads)
    gate = asyncio.Semaphore(_READS_AT_ONCE)
    until = asyncio.get_running_loop().time() + _READS_SECONDS

    async def one(row: Any) -> bool | None:
        async with gate:
            if asyncio.get_running_loop().time() > until:
                return None
            return await _differs(gateway, m, _read_of(gateway, m, row))

    answers = [answer for answer in await asyncio.gather(*(one(row) for row in rows)) if answer is not None]
    return {"readable": len(rows), "compared": len(answers), "different": sum(answers)}


async def _differs(gateway: VendorGateway, m: Migration, call: Call) -> bool | None:
    """Tell whether the new version answers a read differently; None: unknown, since a version gave no answer.

    An object may change between two reads, so only what differs twice in a row counts.
    """
    verdict: bool | None = None
    for _ in range(2):
        old, new = await _answer(gateway, call, m.from_version), await _answer(gateway, call, m.to_version)
        if old is None or new is None or not isinstance(old, Effect):
            return None
        verdict = not isinstance(new, Effect) or bool(rules.differences(old, new))
        if not verdict:
            return False
    return verdict


async def _answer(gateway: VendorGateway, call: Call, version: str) -> Effect | str | None:
    """Return a version's answer, or the name of the error that it makes of the read; None: it gave no answer."""
    try:
        return await gateway.inspect(call, Situation(version=version, is_trial=True, priority=4))
    except (VendorUnavailable, VendorThrottled):
        return None
    except WedsyncError as error:
        return None if error.code == "throttled_until" else error.code
    except Exception as error:  # noqa: BLE001 - an answer of another shape breaks the client that reads it
        return type(error).__name__


def _read_of(gateway: VendorGateway, m: Migration, row: Any) -> Call:
    spec = gateway.manifest(m.service).action(row.action)
    operation = spec.operations[-1].name if spec is not None and spec.operations else "look"
    return Call(
        organization_id=row.organization_id,
        wedding_id=row.wedding_id,
        transaction_id=row.transaction_id,
        step_id=row.step_id,
        vendor=m.service,
        account=row.account,
        action=row.action,
        operation=operation,
        idempotency_key=m.id,
        reference=m.id.lower()[:32],
        inputs={},
        facts=dict.fromkeys(_NAMES, row.object_id),
        first_sent_at=utc_now(),
    )
