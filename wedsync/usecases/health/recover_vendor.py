"""Recover a vendor, one wake at a time: read the row, do what is due, and say when the next wake is due."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.health.messages import RecoveryWake, RecoveryWakeResult
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing import failover
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_window import classify_outcome
from wedsync.domain.routing.vendor_config import ServiceConfig
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.routing import circuits, failovers
from wedsync.usecases.health.probe import probe

#: How long to wait when others hold the probe permits.
_TAKEN = timedelta(seconds=2)
_LEASE_MARGIN = timedelta(seconds=5)
#: A guard that is this late after its time is started anew; longer than a wake may take.
_LATE = timedelta(minutes=6)
#: More than the actions of any recovery in one wake.
_MOST_ACTIONS = 64


async def recover_vendor(
    gateway: VendorGateway, controller: AdmissionController, wake: RecoveryWake
) -> RecoveryWakeResult:
    """Do all that is due at `wake.now`. Idempotent: the row is the truth, each action a compare-and-set.

    Raises StoreUnavailable.
    """
    result = await _recover(gateway, controller, wake)
    async with controller.breakers.db.system() as conn:
        if result.until is None:
            status = "restored" if result.state == "closed" else "superseded"
            await failovers.set_status(conn, wake.service, wake.endpoint, wake.epoch, status, wake.now)
        else:
            await failovers.expect_wake(conn, wake.service, wake.endpoint, wake.epoch, result.until + _LATE)
    return result


async def _recover(gateway: VendorGateway, controller: AdmissionController, wake: RecoveryWake) -> RecoveryWakeResult:
    await controller.routing_table.load()
    config = controller.routing_table.config(wake.service)
    ceremonies = await _describe(controller, wake)
    await _heed(controller, config, wake, ceremonies)
    quiet_at = failover.quiet_moment(ceremonies, wake.now)
    actions: list[str] = []
    for _ in range(_MOST_ACTIONS):
        circuit = await _read(controller, wake)
        step = failover.next_step(circuit, wake.epoch, wake.now, config.circuit, config.failover, quiet_at)
        if step.kind == "done":
            return RecoveryWakeResult(until=None, why=step.why, state=circuit.state, actions=tuple(actions))
        if step.kind == "wait":
            return RecoveryWakeResult(until=step.until, why=step.why, state=circuit.state, actions=tuple(actions))
        if step.kind == "probe":
            did = await _probe(gateway, controller, config, circuit, wake.now)
            if did is None:
                why = "its probes are under way elsewhere"
                return RecoveryWakeResult(until=wake.now + _TAKEN, why=why, state=circuit.state, actions=tuple(actions))
            actions.append(did)
        elif step.kind == "postpone" and step.until is not None:
            actions.append(await _postpone(controller, wake, step.until))
        else:
            actions.append(await _advance(controller, config, wake))
    return RecoveryWakeResult(until=wake.now, why="more to do", state=circuit.state, actions=tuple(actions))


async def _describe(controller: AdmissionController, wake: RecoveryWake) -> list[datetime]:
    """Make sure that the failover says whom it affects; return the ceremonies that are near."""
    async with controller.breakers.db.system() as conn:
        record = await failovers.read_epoch(conn, wake.service, wake.endpoint, wake.epoch)
        if record is not None:
            await failovers.affect(conn, record.id, wake.service, wake.now)
            await failovers.refresh_moment(conn, record.id, wake.service, wake.now)
            await failovers.note_recovery(conn, record.id, wake.now, wake.now + _LATE)
        return await failovers.ceremonies_near(conn, wake.service, wake.now)


async def _heed(
    controller: AdmissionController, config: ServiceConfig, wake: RecoveryWake, ceremonies: list[datetime]
) -> None:
    """Update whether anybody may switch the vendor back now, since weddings come and are moved."""
    noisy = failover.noisy_time(ceremonies, wake.now)

    def change(circuit: Circuit, _: bool) -> Circuit:
        return failover.as_configured(circuit, circuit, config.failover, noisy)

    known = await _read(controller, wake)
    if known.epoch == wake.epoch and change(known, False) != known:
        await controller.breakers.apply(wake.service, wake.endpoint, change, wake.now, actor="guard")


async def _read(controller: AdmissionController, wake: RecoveryWake) -> Circuit:
    async with controller.breakers.db.system() as conn:
        return await circuits.lock_one(conn, wake.service, wake.endpoint)


async def _probe(
    gateway: VendorGateway, controller: AdmissionController, config: ServiceConfig, circuit: Circuit, now: datetime
) -> str | None:
    """Probe once with one of the epoch's permits; None: others hold them all."""
    lease = timedelta(seconds=config.health.timeout_seconds) + _LEASE_MARGIN
    async with controller.breakers.db.system() as conn:
        slot = await circuits.lease_permit(conn, circuit, controller.holder, lease, now, probes=config.circuit.probes)
    if slot is None:
        return None
    endpoint = next((e for e in config.endpoints if e.name == circuit.endpoint), config.endpoints[0])
    found = await probe(gateway, config, endpoint)
    outcome = classify_outcome(None, found.response_ms / 1000, config.circuit) if found.ok else "failed"
    # Slow probes may make the wake's moment long past: a cool-down that begins now is counted from now.
    await controller.breakers.end_probe(
        circuit, slot, controller.holder, outcome, max(now, controller.routing_table.now())
    )
    return f"probe {slot} of round {circuit.round}: {outcome}"


async def _postpone(controller: AdmissionController, wake: RecoveryWake, until: datetime) -> str:
    await controller.breakers.apply(
        wake.service, wake.endpoint, lambda c, _: rules.postponed(c, until), wake.now, actor="guard"
    )
    return f"not before {until.isoformat(timespec='seconds')}"


async def _advance(controller: AdmissionController, config: ServiceConfig, wake: RecoveryWake) -> str:
    def change(circuit: Circuit, _: bool) -> Circuit:
        due = failover.next_step(circuit, wake.epoch, wake.now, config.circuit, config.failover)
        return rules.advanced(circuit, wake.now, config.circuit) if due.kind == "advance" else circuit

    moved = await controller.breakers.apply(wake.service, wake.endpoint, change, wake.now, actor="guard")
    share = rules.share_percent(moved.now_is, wake.now, config.circuit)
    return f"{moved.now_is.state}, {share} % of traffic"
