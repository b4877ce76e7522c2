"""Rebuild what users list of a wedding from its workflow, which holds the truth."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import Conflict, TemporalUnreachable
from wedsync.domain.weddings.messages import REPAIR_UPDATE, Message, wedding_workflow_id

_RPC_TIMEOUT = timedelta(seconds=15)


class Repaired(Message):
    """How many steps were written anew."""

    wedding_id: str
    steps: int


async def repair(client: Client, wedding_id: str) -> Repaired:
    """Have the wedding's workflow write its projection anew.

    Raises Conflict when no workflow of it runs (never asked for, or over), TemporalUnreachable when nobody answers.
    """
    handle = client.get_workflow_handle(wedding_workflow_id(wedding_id))
    try:
        steps = await handle.execute_update(REPAIR_UPDATE, result_type=int, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise Conflict(f"wedding {wedding_id} has no running workflow to repair it from") from error
        raise TemporalUnreachable("the wedding's workflow does not answer") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise TemporalUnreachable("the wedding's workflow does not answer; is a worker running?") from error
    return Repaired(wedding_id=wedding_id, steps=steps)
