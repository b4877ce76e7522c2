"""Operators are told of workflows whose workflow task fails again and again."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import structlog
from sqlalchemy import text
from temporalio.client import Client, WorkflowExecution
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError

from wedsync.domain.incidents.notice import Notice, workflow_stuck
from wedsync.kit import telemetry
from wedsync.kit.temporal import RPC_TIMEOUT
from wedsync.store.db.session import Database
from wedsync.store.incidents import notifications

log = structlog.get_logger(__name__)

_PROBLEMS = SearchAttributeKey.for_keyword_list("TemporalReportedProblems")
_QUERY = "TemporalReportedProblems IS NOT NULL AND ExecutionStatus = 'Running'"
_MOST = 100
#: One that stays stuck is told of again after so long.
_REMIND_AFTER = timedelta(days=1)
_KNOWN = text("SELECT DISTINCT dedup_key FROM notifications WHERE dedup_key = ANY(:keys) AND created_at > :since")
_STUCK = telemetry.meter().create_gauge("stuck_workflows", description="Workflows whose workflow task keeps failing")


class StuckWatch:
    """The process's own: it remembers which types it has counted, and whether Temporal answers."""

    def __init__(self) -> None:
        self._counted: set[str] = set()
        self._is_blind = False

    async def watch(self, db: Database, client: Client, now: datetime) -> int:
        """Tell of each stuck workflow once a day at most and return how many there are; none without Temporal."""
        try:
            found = [one async for one in client.list_workflows(_QUERY, limit=_MOST, rpc_timeout=RPC_TIMEOUT)]
        except RPCError as error:
            if not self._is_blind:
                log.warning("stuck_workflows.unknown", reason=error.status.name)
            self._is_blind = True
            return 0
        self._is_blind = False
        self._count(Counter(one.workflow_type for one in found))
        if found:
            await _announce(db, [_notice(one, now) for one in found], now)
        return len(found)

    def _count(self, by_type: Counter[str]) -> None:
        self._counted |= by_type.keys()
        for workflow_type in self._counted:
            _STUCK.set(by_type[workflow_type], {"workflow_type": workflow_type})


def _notice(one: WorkflowExecution, now: datetime) -> Notice:
    problems = one.typed_search_attributes.get(_PROBLEMS, ())
    return workflow_stuck(one.workflow_type, one.id, one.run_id, tuple(problems), now)


async def _announce(db: Database, notices: list[Notice], now: datetime) -> None:
    asked = {"keys": [notice.dedup_key for notice in notices], "since": now - _REMIND_AFTER}
    async with db.system() as conn:
        known = set((await conn.execute(_KNOWN, asked)).scalars())
        for notice in notices:
            if notice.dedup_key not in known:
                await notifications.announce(conn, notice)
