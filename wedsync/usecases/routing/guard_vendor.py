"""Recover a vendor, one wake at a time: read the row, do what is due, and say when the next wake is due."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.routing import circuit as rules
from wedsync.domain.routing import failover
from wedsync.domain.routing.circuit import Circuit
from wedsync.domain.routing.messages import GuardLook, GuardNews
from wedsync.domain.routing.services import ServiceConfig
from wedsync.domain.routing.window import classify_outcome
from wedsync.store import circuits, failovers
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.probe import probe
from wedsync.usecases.routing.switchboard import Switchboard

#: How long to wait when others hold the probe permits.
_TAKEN = timedelta(seconds=2)
_LEASE_MARGIN = timedelta(seconds=5)
#: A guard that is this late after its time is started anew; longer than a wake may take.
_LATE = timedelta(minutes=6)
#: More than the actions of any recovery in one wake.
_MOST_DEEDS = 64


async def guard_vendor(gateway: VendorGateway, board: Switchboard, look: GuardLook) -> GuardNews:
    """Do all that is due at `look.now`. Idempotent: the row is the truth, each action a compare-and-set.

    Raises StoreUnavailable.
    """
    news = await _guard(gateway, board, look)
    async with board.transitions.db.system() as conn:
        if news.until is None:
            status = "restored" if news.state == "closed" else "superseded"
            await failovers.set_status(conn, look.service, look.endpoint, look.epoch, status, look.now)
        else:
            await failovers.awaits_guard(conn, look.service, look.endpoint, look.epoch, news.until + _LATE)
    return news


async def _guard(gateway: VendorGateway, board: Switchboard, look: GuardLook) -> GuardNews:
    await board.book.load()
    config = board.book.config(look.service)
    ceremonies = await _describe(board, look)
    await _heed(board, config, look, ceremonies)
    quiet_at = failover.quiet_moment(ceremonies, look.now)
    deeds: list[str] = []
    for _ in range(_MOST_DEEDS):
        circuit = await _read(board, look)
        step = failover.next_step(circuit, look.epoch, look.now, config.circuit, config.failover, quiet_at)
        if step.kind == "done":
            return GuardNews(until=None, why=step.why, state=circuit.state, deeds=tuple(deeds))
        if step.kind == "wait":
            return GuardNews(until=step.until, why=step.why, state=circuit.state, deeds=tuple(deeds))
        if step.kind == "probe":
            did = await _probe(gateway, board, config, circuit, look.now)
            if did is None:
                why = "its probes are under way elsewhere"
                return GuardNews(until=look.now + _TAKEN, why=why, state=circuit.state, deeds=tuple(deeds))
            deeds.append(did)
        elif step.kind == "postpone" and step.until is not None:
            deeds.append(await _postpone(board, look, step.until))
        else:
            deeds.append(await _advance(board, config, look))
    return GuardNews(until=look.now, why="more to do", state=circuit.state, deeds=tuple(deeds))


async def _describe(board: Switchboard, look: GuardLook) -> list[datetime]:
    """Make sure that the failover says whom it affects; return the ceremonies that are near."""
    async with board.transitions.db.system() as conn:
        record = await failovers.read_epoch(conn, look.service, look.endpoint, look.epoch)
        if record is not None:
            await failovers.affect(conn, record.id, look.service, look.now)
            await failovers.refresh_moment(conn, record.id, look.service, look.now)
            await failovers.guarded(conn, record.id, look.now, look.now + _LATE)
        return await failovers.ceremonies_near(conn, look.service, look.now)


async def _heed(board: Switchboard, config: ServiceConfig, look: GuardLook, ceremonies: list[datetime]) -> None:
    """Update whether anybody may switch the vendor back now, since weddings come and are moved."""
    noisy = failover.noisy_time(ceremonies, look.now)

    def change(circuit: Circuit, _: bool) -> Circuit:
        return failover.as_configured(circuit, circuit, config.failover, noisy)

    known = await _read(board, look)
    if known.epoch == look.epoch and change(known, False) != known:
        await board.transitions.apply(look.service, look.endpoint, change, look.now, actor="guard")


async def _read(board: Switchboard, look: GuardLook) -> Circuit:
    async with board.transitions.db.system() as conn:
        return await circuits.lock_one(conn, look.service, look.endpoint)


async def _probe(
    gateway: VendorGateway, board: Switchboard, config: ServiceConfig, circuit: Circuit, now: datetime
) -> str | None:
    """Probe once with one of the epoch's permits; None: others hold them all."""
    lease = timedelta(seconds=config.health.timeout_seconds) + _LEASE_MARGIN
    async with board.transitions.db.system() as conn:
        slot = await circuits.lease_permit(conn, circuit, board.holder, lease, now, probes=config.circuit.probes)
    if slot is None:
        return None
    endpoint = next((e for e in config.endpoints if e.name == circuit.endpoint), config.endpoints[0])
    found = await probe(gateway, config, endpoint)
    outcome = classify_outcome(None, found.response_ms / 1000, config.circuit) if found.ok else "failed"
    # Slow probes may make the wake's moment long past: a cool-down that begins now is counted from now.
    await board.transitions.end_probe(circuit, slot, board.holder, outcome, max(now, board.book.now()))
    return f"probe {slot} of round {circuit.round}: {outcome}"


async def _postpone(board: Switchboard, look: GuardLook, until: datetime) -> str:
    await board.transitions.apply(
        look.service, look.endpoint, lambda c, _: rules.postponed(c, until), look.now, actor="guard"
    )
    return f"not before {until.isoformat(timespec='seconds')}"


async def _advance(board: Switchboard, config: ServiceConfig, look: GuardLook) -> str:
    def change(circuit: Circuit, _: bool) -> Circuit:
        due = failover.next_step(circuit, look.epoch, look.now, config.circuit, config.failover)
        return rules.advanced(circuit, look.now, config.circuit) if due.kind == "advance" else circuit

    moved = await board.transitions.apply(look.service, look.endpoint, change, look.now, actor="guard")
    share = rules.share_percent(moved.now_is, look.now, config.circuit)
    return f"{moved.now_is.state}, {share} % of traffic"
