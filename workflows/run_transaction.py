"""`RunTransaction`: one all-or-accounted-for change of a wedding, short, settling by signal."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import Failure
    from activities.weddings import BeginTransaction, SettleTransaction, WeddingActivities
    from wedsync.domain.weddings import saga, search_attributes
    from wedsync.domain.weddings.ledger import (
        CompensationResult,
        Recheck,
        StepError,
        TransactionInput,
        TransactionResult,
    )
    from wedsync.domain.weddings.messages import (
        SETTLED_SIGNAL,
        TRANSACTION_WORKFLOW,
        TransactionStatus,
        wedding_workflow_id,
    )
    from workflows.board import Board
    from workflows.calls import Caller
    from workflows.compensation import Rollback
    from workflows.details import transaction_details, upsert_changed
    from workflows.forward import Forward
    from workflows.progress import Progress

_SETTLED_ROW_VERSION = 2
_STATUS = SearchAttributeKey.for_keyword(search_attributes.TRANSACTION_STATUS)
_VENDOR = SearchAttributeKey.for_keyword_list(search_attributes.VENDOR)


@workflow.defn(name=TRANSACTION_WORKFLOW)
class RunTransaction:
    """One saga."""

    @workflow.init
    def __init__(self, given: TransactionInput) -> None:
        self._given = given
        self._board = Board(given)
        self._progress = Progress(self._board)
        self._caller = Caller(self._board, self._progress)
        self._rollback = Rollback(self._board, self._caller, self._progress)
        self._forward = Forward(self._board, self._caller, self._rollback, self._progress)
        self._rolling_back = given.rolls_back
        self._cancel = given.cancel

    @workflow.run
    async def run(self, given: TransactionInput) -> TransactionStatus:
        """Do what is due, undo it if that must be, and tell the wedding what it came to.

        Only the status is returned: the result goes to the wedding by signal and stands in Postgres.
        """
        story = asyncio.create_task(self._story())
        try:
            return await asyncio.shield(story)
        except asyncio.CancelledError:
            # A rollback is never cut short: a cancellation from outside is a wish to stop and undo.
            self._board.stop(StepError(code="cancelled", detail="cancelled from outside"))
            return await story

    async def _story(self) -> TransactionStatus:
        given, started_at = self._given, workflow.now()
        await self._begin()
        await self._forward.run()
        if self._board.stopping:
            self._rolling_back = True
        if self._rolling_back:
            await self._roll_back()
        await self._look_again()
        result = self._result(started_at)
        await self._settle(result)
        if given.told_by == "workflow":
            await self._tell(result)
        return result.status

    @workflow.signal(name="stop")
    def stop(self, cancel: bool) -> None:
        """Start nothing new and undo what was done. A settled transaction takes no notice."""
        self._cancel = cancel
        self._board.stop(StepError(code="cancelled" if cancel else "undone", detail="on request"))

    @workflow.query(name="plan")
    def plan(self) -> dict[str, str]:
        """Each step's status."""
        return {step_id: state.status for step_id, state in self._board.states.items()}

    async def _begin(self) -> None:
        self._show("running")
        await workflow.execute_local_activity_method(
            WeddingActivities.begin_transaction,
            BeginTransaction(
                organization_id=self._given.organization_id,
                wedding_id=self._given.wedding_id,
                transaction_id=self._given.transaction_id,
                kind=self._given.kind,
                seq=self._given.seq,
                origin_tx=self._given.origin_tx,
                step_ids=tuple(self._board.states),
                now=workflow.now(),
            ),
            **options.local(f"begin {self._given.kind}"),
        )

    async def _roll_back(self) -> None:
        self._show("rolling_back")
        for step_id, state in list(self._board.states.items()):
            if state.status in ("pending", "scheduled"):
                self._board.update(step_id, status="skipped")
        entries = self._rollback.begin()
        await self._progress.show(self._board.states, "show the rollback", is_rolling_back=True)
        await self._rollback.run(entries)
        kept = self._board.set_before()
        for step_id, state in list(self._board.states.items()):
            if step_id not in kept and state.status in ("running", "waiting", "held"):
                reason = self._board.stop_reason or StepError(code="undone", detail="undone")
                self._board.update(
                    step_id,
                    status="failed",
                    error=state.error or reason,
                    ended_at=workflow.now(),
                    waits_for="",
                    refused_by=(),
                    deadline_at=None,
                )
        self._leave_to_a_person(kept)
        for state in self._board.lost():
            self._board.compensation(state.step_id, saga.undo_of_lost(state))

    def _leave_to_a_person(self, kept: set[str]) -> None:
        """Steps whose vendor has answered, and with which the rollback let nobody go on."""
        answers = {deed.step.id: deed.state for deed in self._given.deeds if deed.kind == "answer"}
        for step_id in sorted(kept):
            state = self._board.states[step_id]
            # The answer was taken from the wedding: who has not been begun with would wait for it in vain.
            if state.status == "running" or (state.status == "waiting" and state == answers.get(step_id)):
                failure = Failure(code="undone", detail="what went on with it was undone: retry goes on with it again")
                self._board.held(step_id, failure, workflow.now(), unknown=True)

    async def _look_again(self) -> None:
        """Effects that were found absent, whose undo was not final, or that a vendor would not let go of: once more."""
        board = self._board
        for recheck in self._given.rechecks:
            step_id = recheck.entry.step_id
            kept, rechecks, parked = board.entries.pop(step_id, None), len(board.rechecks), board.parked
            board.entries[step_id], said = recheck.entry, board.states[step_id].compensation
            result = await self._rollback.undo(step_id, workflow.now() + timedelta(minutes=2))
            is_open = len(board.rechecks) > rechecks
            del board.rechecks[rechecks:]
            del board.entries[step_id]
            if kept is not None:
                board.entries[step_id] = kept
            board.parked = parked
            if board.states[step_id].compensation != said:
                board.update(step_id, compensation=said)
            self._after_look(recheck, result, is_open=is_open)

    def _after_look(self, recheck: Recheck, result: CompensationResult, *, is_open: bool) -> None:
        if result.status == "undone" and not is_open:
            self._note_look(recheck.entry.step_id, result)
            return
        if recheck.look < len(saga.RECHECK_AFTER):
            again = recheck.model_copy(
                update={"look": recheck.look + 1, "due_at": workflow.now() + saga.RECHECK_AFTER[recheck.look]}
            )
            self._board.rechecks.append(again)
            return
        said = self._board.states[recheck.entry.step_id].compensation
        if result.status == "undone":
            result = result.model_copy(update={"status": "needs_attention"})
        elif result.status == "nothing_to_undo" and said is not None and said.status == "undone":
            # By now there is nothing: what was undone then is so for good.
            return
        self._note_look(recheck.entry.step_id, result)

    def _note_look(self, step_id: str, result: CompensationResult) -> None:
        """What the transaction did about the step's own effect is not written over, unless a person is needed."""
        if result.status == "needs_attention" or step_id not in self._board.entries:
            self._board.compensation(step_id, result)

    def _result(self, started_at: datetime) -> TransactionResult:
        board = self._board
        states = board.ordered_states()
        status: TransactionStatus = saga.transaction_status(
            states,
            rolled_back=self._rolling_back,
            cancelled=self._cancel and self._rolling_back and self._given.kind != "undo",
            parked=board.parked,
        )
        error = board.stop_reason if self._rolling_back else None
        return TransactionResult(
            id=self._given.transaction_id,
            seq=self._given.seq,
            kind=self._given.kind,
            status=status,
            gaps=() if self._rolling_back else saga.gaps(states),
            steps=states,
            entries=tuple(board.entries.values()),
            rechecks=tuple(board.rechecks),
            superseded=self._given.superseded,
            rolled_back=self._rolling_back,
            started_at=started_at,
            ended_at=workflow.now(),
            error=error,
        )

    async def _settle(self, result: TransactionResult) -> None:
        self._show(result.status)
        given = self._given
        await workflow.execute_activity_method(
            WeddingActivities.settle_transaction,
            SettleTransaction(
                organization_id=given.organization_id,
                wedding_id=given.wedding_id,
                result=result,
                step_ids=tuple(self._board.states),
                version=_SETTLED_ROW_VERSION,
                step_version=self._board.next_version(),
                now=workflow.now(),
                tells=given.told_by == "settling",
            ),
            **options.records(f"settle as {result.status}", given.mode, given.organization_id),
        )

    async def _tell(self, result: TransactionResult) -> None:
        """The last act of transactions that began before settling told the wedding, too."""
        wedding = workflow.get_external_workflow_handle(wedding_workflow_id(self._given.wedding_id))
        try:
            await wedding.signal(SETTLED_SIGNAL, result)
        except ApplicationError as error:
            workflow.logger.warning("wedding.gone", extra={"reason": error.type})

    def _show(self, status: TransactionStatus) -> None:
        """For the operator: search attributes and the current details in the Temporal UI."""
        upsert_changed([_STATUS.value_set(status), _VENDOR.value_set(self._board.vendors())])
        workflow.set_current_details(transaction_details(status, self._board.ordered_states()))
