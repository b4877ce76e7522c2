"""Write what users list of a wedding, in the name of the workflow run that holds it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.weddings.messages import Message, wedding_workflow_id
from wedsync.domain.weddings.projection import ProjectionWrite, Written
from wedsync.kit.temporal import UPDATE_TIMEOUT, ClientProvider
from wedsync.store.weddings.projection_writer import ProjectionWriter

log = structlog.get_logger(__name__)


class WeddingHeader(Message):
    """Whose write it is, and its number: a wedding's later writes win over its earlier ones."""

    organization_id: str
    wedding_id: str
    #: The run that the writing one continues; empty: it is the first, or an operator's reset made it.
    continued_from: str = ""
    version: int
    now: datetime

    def write(self, run_id: str, **rows: Any) -> ProjectionWrite:
        """Write these rows for a workflow run."""
        return ProjectionWrite(
            organization_id=self.organization_id,
            wedding_id=self.wedding_id,
            now=self.now,
            run_id=run_id,
            takes_from=self.continued_from,
            **rows,
        )


class HeldWriter:
    """Writes for workflow runs. A run that finds another one holding the wedding writes only if it is the current one.

    So a run that an operator reset away writes nothing more, and the one in its place takes the wedding over.
    """

    def __init__(self, writer: ProjectionWriter, provide: ClientProvider) -> None:
        self._writer = writer
        self._provide = provide

    async def write(self, write: ProjectionWrite) -> Written:
        """Write, and return once it is committed. Raises StoreUnavailable, TemporalUnreachable."""
        written = await self._writer.write(write)
        if written.contested_by is None:
            return written
        if write.run_id != await self._current_run(write.wedding_id):
            log.warning("projection.stale_run", wedding_id=write.wedding_id, run_id=write.run_id)
            return written
        log.warning("projection.taken_over", wedding_id=write.wedding_id, from_run=written.contested_by)
        return await self._writer.write(write.taking_from(written.contested_by))

    async def _current_run(self, wedding_id: str) -> str | None:
        client = await self._provide()
        try:
            described = await client.get_workflow_handle(wedding_workflow_id(wedding_id)).describe(
                rpc_timeout=UPDATE_TIMEOUT
            )
        except (RPCError, RuntimeError) as error:
            if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise TemporalUnreachable("Temporal does not say which run is current") from error
        return described.run_id
