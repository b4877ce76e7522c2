"""Tend the failovers that stand: start guards that are missing, withdraw proposals that nobody needs any more."""

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
    """How many guards were started: of failovers that never got one, and of those whose guard did not wake when it
    should have. One that lives is not started twice.

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
    """Those of services that are still there: a vendor that was taken out stops nobody."""
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
    """The proposals whose service is well again."""
    found = []
    for one in proposed:
        key = (one.from_service, one.endpoint)
        circuit, look = known.get(key), looks.get(one.from_service)
        is_up = None if look is None or look.checked_at is None else look.status in ("healthy", "degraded")
        if len(book.config(one.from_service).endpoints) > 1:
            # A service is as well as its best endpoint, which need not be this one.
            is_up = up.get(key)
        if circuit is not None and rules.is_well_again(circuit, is_up, now, book.policy(one.from_service)):
            log.info("failover.superseded", service=one.from_service, endpoint=one.endpoint, reason=one.reason)
            found.append(one)
    return found
