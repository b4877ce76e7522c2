"""Bindings of one transaction: made in workflow code from what its beginning recorded."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue
from temporalio import workflow

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import ACTIVITY_FAILED, read_failure
    from activities.weddings import PrepareSteps, StepAtVendor, WeddingActivities
    from wedsync.domain.errors import InvalidInput
    from wedsync.domain.failure import Failure
    from wedsync.domain.plans.plan import PlannedStep
    from wedsync.domain.weddings.binding import Preparation, WeddingFacts, bind
    from wedsync.domain.weddings.ledger import Binding
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.vendor_calls import DefiniteFailure


class Binder:
    """Binds steps to vendors. What its transaction's beginning did not prepare is prepared when it is needed."""

    def __init__(self, state: TransactionState, plan_version: int, facts: WeddingFacts, given: Preparation) -> None:
        self._state = state
        self._plan_version = plan_version
        self._facts = facts
        self._given = given

    async def bind(self, step: PlannedStep, vendor: str, number: int) -> Binding:
        """Bind the step in round `number`: its operations, inputs and keys from here on. Raises DefiniteFailure."""
        results = {name: self._state.results[name] for name in step.needs if name in self._state.results}
        if not self._given.covers(step.id, vendor):
            await self._prepare(step, vendor, results)
        try:
            return bind(
                step,
                vendor,
                number,
                self._given,
                self._facts,
                results,
                wedding_id=self._state.input.wedding_id,
                transaction_id=self._state.transaction_id,
                now=workflow.now(),
            )
        except InvalidInput as error:
            failure = Failure(code=error.code, detail=error.detail, reason=error.reason)
            raise DefiniteFailure(failure) from error

    async def _prepare(self, step: PlannedStep, vendor: str, results: dict[str, dict[str, JsonValue]]) -> None:
        given = self._state.input
        try:
            more = await workflow.execute_local_activity_method(
                WeddingActivities.prepare_steps,
                PrepareSteps(
                    organization_id=given.organization_id,
                    wedding_id=given.wedding_id,
                    transaction_id=given.transaction_id,
                    plan_version=self._plan_version,
                    steps=(StepAtVendor(step_id=step.id, vendor=vendor),),
                    results=results,
                    now=workflow.now(),
                ),
                **options.local(f"{step.id}: prepare for {vendor}"),
            )
        except ACTIVITY_FAILED as error:
            raise DefiniteFailure(read_failure(error)) from error
        self._given = self._given.plus(more)


def first_vendors(steps: Iterable[tuple[PlannedStep, tuple[str, ...]]]) -> tuple[StepAtVendor, ...]:
    """Name each step with the vendor that it is tried at first."""
    return tuple(StepAtVendor(step_id=step.id, vendor=(vendors or step.vendors)[0]) for step, vendors in steps)
