"""Tend the failovers that are active: start missing guards, withdraw proposals that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog

from wedsync.domain.health.status import Health
from wedsync.domain.routing import failover as rules
from wedsync.domain.routing.circuit import Circuit
from wedsync.store import circuits, failovers, health
from wedsync.usecases.routing.book import Book
from wedsync.usecases.routing.transitions import Transitions

log = structlog.get_logger(__name__)


async def tend_failovers(transitions: Transitions, now: datetime, up: Mapping[tuple[str, str], bool] = {}) -> int:
    """Start guards for failovers that never got one, and for those whose guard did not wake when it should have.
    A guard that lives is not started twice. Returns how many were started.

    `up`: which of the endpoints of a service that has several answer their probes. Raises StoreUnavailable.
    """
    async with transitions.db.system() as conn:
        await failovers.refresh_moments(conn, now)
        proposed = _installed(transitions.book, await failovers.proposed(conn))
        if proposed:
            known = {circuit.key: circuit for circuit in await circuits.read_all(conn)}
            over = _over(transitions.book, proposed, known, await health.read_all(conn), up, now)
            await failovers.supersede(conn, [one.id for one in over])
        missing = _installed(transitions.book, await failovers.unguarded(conn, now))
    started = 0
    for failover in missing:
        circuit = transitions.book.circuit(failover.from_service, failover.endpoint)
        circuit = circuit.model_copy(update={"epoch": failover.epoch})
        started += await transitions.start_guard(failover.id, circuit, now)
    return started


def _installed(book: Book, found: Iterable[Any]) -> list[Any]:
    """Keep the failovers of vendors that are still installed: a vendor that was taken out stops nobody."""
    services = frozenset(book.services())
    return [failover for failover in found if failover.from_service in services]


def _over(
    book: Book,
    proposed: Any,
    known: Mapping[tuple[str, str], Circuit],
    looks: Mapping[str, Health],
    up: Mapping[tuple[str, str], bool],
    now: datetime,
) -> list[Any]:
    """List the proposals whose vendor is well again."""
    found = []
    for one in proposed:
        key = (one.from_service, one.endpoint)
        circuit, look = known.get(key), looks.get(one.from_service)
        is_up = None if look is None or look.checked_at is None else look.status in ("healthy", "degraded")
        if len(book.config(one.from_service).endpoints) > 1:
            # A vendor is as well as its best endpoint, which need not be this one.
            is_up = up.get(key)
        if circuit is not None and rules.is_well_again(circuit, is_up, now, book.policy(one.from_service)):
            log.info("failover.superseded", service=one.from_service, endpoint=one.endpoint, reason=one.reason)
            found.append(one)
    return found
