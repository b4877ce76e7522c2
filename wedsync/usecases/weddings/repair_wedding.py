"""Rebuild from a wedding's workflow what users list of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import WEDDING_OVER, Conflict, TemporalUnreachable
from wedsync.domain.weddings.messages import REPAIR_UPDATE, wedding_workflow_id
from wedsync.store.db.session import Database
from wedsync.usecases.weddings.read_wedding import wedding_row

_RPC_TIMEOUT = timedelta(seconds=10)


async def repair_wedding(
    db: Database, client_provider: Callable[[], Awaitable[Client]], organization_id: str, wedding: str
) -> int:
    """Have the wedding's rows written anew; return the number of steps written.

    Raises NotFound, Conflict(reason="not_started" or "wedding_over") when no workflow runs, TemporalUnreachable.
    """
    async with db.tenant(organization_id) as conn:
        row = await wedding_row(conn, wedding)
    try:
        client = await client_provider()
        handle = client.get_workflow_handle(wedding_workflow_id(row.id))
        return int(await handle.execute_update(REPAIR_UPDATE, result_type=int, rpc_timeout=_RPC_TIMEOUT))
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            is_over = row.status in ("cancelled", "ended")
            detail = f"the wedding is {row.status}" if is_over else "no workflow of this wedding runs yet"
            raise Conflict(detail, reason=WEDDING_OVER if is_over else "not_started") from error
        raise TemporalUnreachable("Temporal does not answer") from error
    except (WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, RuntimeError) as error:
        raise TemporalUnreachable("Temporal, or the worker, does not answer") from error
