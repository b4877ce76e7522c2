"""A step and one vendor for it: what will be asked of it, and by which keys."""

from __future__ import annotations

from temporalio import workflow

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import ACTIVITY_FAILED, read_failure
    from activities.weddings import BindStep, WeddingActivities
    from wedsync.domain.weddings.ledger import Binding
    from wedsync.domain.weddings.plan import PlannedStep
    from workflows.board import Board
    from workflows.calls import Refused


async def bind(board: Board, step: PlannedStep, vendor: str, round_: int, place: int) -> Binding:
    """Bind the step to a vendor: its operations, inputs and keys from here on. Raises Refused."""
    given, state = board.given, board.states[step.id]
    try:
        return await workflow.execute_local_activity_method(
            WeddingActivities.bind_step,
            BindStep(
                organization_id=given.organization_id,
                wedding_id=given.wedding_id,
                transaction_id=given.transaction_id,
                plan_version=given.plan_version,
                step=step,
                vendor=vendor,
                round=round_,
                results={name: board.results[name] for name in step.needs if name in board.results},
                state=state,
                version=board.next_version(),
                now=workflow.now(),
            ),
            **options.local(f"{step.id}: bind to {vendor}"),
        )
    except ACTIVITY_FAILED as error:
        raise Refused(read_failure(error)) from error
