"""Run a wedding's transactions one at a time: claim and begin, drive, settle, apply the result."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio import workflow

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import ACTIVITY_FAILED, read_failure
    from activities.weddings import (
        BeginTransaction,
        Begun,
        FirstSteps,
        SettleTransaction,
        StepAtVendor,
        WeddingActivities,
    )
    from wedsync.domain.failure import BUG
    from wedsync.domain.weddings import agenda, requests
    from wedsync.domain.weddings.apply_result import apply_result, conclude, newest_updates
    from wedsync.domain.weddings.messages import TransactionKind, TransactionRequest
    from wedsync.domain.weddings.step import StepError, StepState, step_error
    from wedsync.domain.weddings.task import StepTask
    from wedsync.domain.weddings.transaction import TransactionInput, TransactionResult, TransactionUpdate
    from wedsync.domain.weddings.transaction_state import TransactionState
    from wedsync.domain.weddings.wedding_state import Course, Interrupted
    from workflows.saga.binder import Binder, first_vendors
    from workflows.saga.transaction import Transaction
    from workflows.wedding_journal import WeddingJournal


class TransactionRunner:
    """Runs transactions of one wedding."""

    def __init__(self, journal: WeddingJournal) -> None:
        self._journal = journal
        #: The id of the transaction that runs.
        self.running = ""
        self._transaction: Transaction | None = None
        self._is_stop_wanted = False

    # ---- what others say of it

    def touches(self, request: TransactionRequest) -> bool:
        """Tell whether an undo is about the transaction that runs."""
        return bool(self.running) and request.kind == "undo" and (request.everything or request.target == self.running)

    def stop(self, *, cancel: bool) -> None:
        """Let the running transaction start nothing new and undo what it did."""
        if self._transaction is not None:
            self._transaction.stop(
                StepError(code="cancelled" if cancel else "undone", detail="on request"), cancel=cancel
            )

    def stop_from_outside(self) -> bool:
        """Undo what runs, since somebody cancelled the workflow. False: nothing runs."""
        self._is_stop_wanted = bool(self.running)
        if self._transaction is not None:
            self._transaction.stop(StepError(code="cancelled", detail="cancelled from outside"))
        return self._is_stop_wanted

    def running_steps(self) -> tuple[StepState, ...]:
        """Return the steps of the running transaction as they are now."""
        return self._transaction.state.ordered_states() if self._transaction is not None else ()

    # ---- beginning

    def new_id(self) -> str:
        """Make the next transaction's id: the same on replay, and after a reset, so that nothing is begun twice."""
        state = self._journal.state
        return agenda.own_transaction_id(state.start.wedding_id, state.seq + 1)

    async def orchestrate(self, request: TransactionRequest) -> None:
        """Begin the plan: read it, resolve its times, and run what is due first. What can't be begun says why."""
        journal = self._journal
        self._starting(request.id)
        rounds = {i: s.round for i, s in journal.state.states.items()}
        try:
            begun = await self._begin(request.id, "orchestrate", request.id, first=FirstSteps(rounds=rounds))
        except ACTIVITY_FAILED as error:
            self.running = ""
            why = step_error(read_failure(error))
            await journal.record((TransactionUpdate(transaction_id=request.id, status="needs_attention", error=why),))
            return
        if journal.state.plan is None and begun.plan is not None:
            journal.take_plan(begun.plan)
        journal.state = journal.state.orchestrated(request.id, {s.step_id: s for s in begun.first_states})
        await self._turn_to_the_hour()
        given = self._input(request.id, "orchestrate", requests.first_tasks(journal.state, workflow.now()))
        await self._run(given, Course(request=request), begun)

    async def run(
        self, tx: str, kind: TransactionKind, course: Course, tasks: tuple[StepTask, ...] = ()
    ) -> TransactionResult:
        """Run a transaction of these tasks."""
        return await self.run_input(self.input(tx, kind, tasks), course)

    def input(self, tx: str, kind: TransactionKind, tasks: tuple[StepTask, ...] = ()) -> TransactionInput:
        """Return the inputs of a transaction: all it needs, so that it asks nobody."""
        self._starting(tx)
        return self._input(tx, kind, tasks)

    async def run_input(self, given: TransactionInput, course: Course) -> TransactionResult:
        """Run a transaction to its settling and take in what it came to."""
        try:
            begun = await self._begin(
                given.transaction_id, given.kind, given.origin_tx, given=given, steps=_first_bindings(given.tasks)
            )
        except ACTIVITY_FAILED as error:
            broken = TransactionState(given, workflow.now()).broken(step_error(read_failure(error)), workflow.now())
            return await self._settle(given, course, broken)
        return await self._run(given, course, begun)

    async def resume(self) -> None:
        """Go on with the transaction that the run before this one carried over."""
        journal = self._journal
        left = journal.state.interrupted
        if left is None:
            return
        given, state = left.transaction.input, TransactionState.resumed(left.transaction)
        journal.state = journal.state.interrupted_at(None)
        self.running = given.transaction_id
        waiting = [task for step_id, task in state.tasks.items() if step_id not in state.begun]
        begun = await self._begin(
            given.transaction_id, given.kind, given.origin_tx, given=given, steps=_first_bindings(waiting)
        )
        await self._drive(state, left.course, begun)

    def _starting(self, tx: str) -> None:
        self._journal.state = self._journal.state.numbered()
        self.running = tx

    def _input(self, tx: str, kind: TransactionKind, tasks: tuple[StepTask, ...]) -> TransactionInput:
        state, plan = self._journal.state, self._journal.state.compiled
        doing = {task.step.id for task in tasks}
        return TransactionInput(
            organization_id=state.start.organization_id,
            wedding_id=state.start.wedding_id,
            mode=state.mode,
            locale=plan.locale,
            transaction_id=tx,
            seq=state.seq,
            kind=kind,
            origin_tx=state.origin or tx,
            parallelism=plan.parallelism,
            tasks=requests.on_active_entries(state, tasks),
            results=state.results(),
            satisfied=tuple(i for i in state.states if i not in doing and requests.stands(state, i)),
        )

    async def _begin(
        self,
        tx: str,
        kind: TransactionKind,
        origin_tx: str,
        *,
        given: TransactionInput | None = None,
        first: FirstSteps | None = None,
        steps: Sequence[StepAtVendor] = (),
    ) -> Begun:
        """Claim the transaction's row, in the database transaction that records its start."""
        journal = self._journal
        state = journal.state
        begun: Begun = await workflow.execute_local_activity_method(
            WeddingActivities.begin_transaction,
            BeginTransaction(
                header=journal.header(),
                transaction_id=tx,
                kind=kind,
                seq=state.seq,
                origin_tx=origin_tx,
                plan_version=state.plan.version if state.plan else state.start.plan_version,
                wants_plan=state.plan is None,
                first=first,
                steps=tuple(steps),
                step_ids=given.step_ids() if given is not None else (),
            ),
            **options.local(f"begin {kind}"),
        )
        return begun

    async def _turn_to_the_hour(self) -> None:
        journal = self._journal
        plan, now = journal.state.compiled, workflow.now()
        phase, mode = agenda.phase_at(now, plan.ceremony_at), agenda.mode_at(now, plan.ceremony_at)
        if (phase, mode) != (journal.state.phase, journal.state.mode):
            journal.state = journal.state.at_hour(phase, mode, journal.state.status)
            await journal.record()

    # ---- driving

    async def _run(self, given: TransactionInput, course: Course, begun: Begun) -> TransactionResult:
        state = TransactionState(given, workflow.now())
        if begun.settled is not None:
            # It was run to its end before a reset, or before a crash that left history without that.
            return await self._settle(given.as_settled(begun.settled), course, begun.settled)
        return await self._drive(state, course, begun)

    async def _drive(self, state: TransactionState, course: Course, begun: Begun) -> TransactionResult:
        journal, given = self._journal, state.input
        plan = journal.state.compiled
        binder = Binder(state, plan.version, plan.wedding, begun.preparation)
        self._transaction = transaction = Transaction(state, binder, journal.header, begun.held_by)
        self._stop_if_asked()
        journal.show(self.running)
        try:
            is_over = await transaction.run()
        except Exception as error:  # noqa: BLE001 (whatever it is ends this transaction, and never the wedding)
            workflow.logger.exception("transaction.broke", extra={"transaction_id": given.transaction_id})
            why = StepError(code=BUG, detail=f"an unexpected {type(error).__name__} in our own code")
            return await self._settle(given, course, state.broken(why, workflow.now()))
        if not is_over:
            await self._carry_over(course, transaction)
        return await self._settle(given, course, state.result(workflow.now()))

    def _stop_if_asked(self) -> None:
        """Undo the transaction if somebody requested that while it was being begun."""
        asked = [request for request in self._journal.state.queue if self.touches(request)]
        if asked:
            self.stop(cancel=any(request.cancel for request in asked))
        if self._is_stop_wanted:
            self.stop_from_outside()

    async def _carry_over(self, course: Course, transaction: Transaction) -> None:
        """Go on in a new run. Every call has its answer by now, and every wait is an instant."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        left = Interrupted(course=course, transaction=transaction.state.carried())
        workflow.continue_as_new(self._journal.carried().interrupted_at(left))

    # ---- settling

    async def _settle(self, given: TransactionInput, course: Course, result: TransactionResult) -> TransactionResult:
        """Apply the transaction's outcome, and write it with all that changed with it."""
        journal = self._journal
        self.running, self._transaction, self._is_stop_wanted = "", None, False
        applied = apply_result(journal.state, given, result)
        concluded = conclude(applied.state, course, result, workflow.now())
        journal.state = concluded.state
        journal.show()
        resolving = journal.resolving()
        settled = await workflow.execute_local_activity_method(
            WeddingActivities.settle_transaction,
            SettleTransaction(
                header=journal.header(),
                wedding=journal.state.row(),
                result=result,
                transactions=newest_updates(*applied.updates, *concluded.updates),
                steps=applied.steps,
                resolves=resolving,
            ),
            **options.local(f"settle as {result.status}"),
        )
        if resolving is not None:
            journal.state = journal.state.due(settled.due, [step.step_id for step in resolving.steps])
        return result


def _first_bindings(tasks: Sequence[StepTask]) -> tuple[StepAtVendor, ...]:
    """List what will be bound first: what goes on with its own binding needs none."""
    new = [task for task in tasks if task.kind == "do" and task.entry is None]
    changes = [
        StepAtVendor(step_id=task.step.id, vendor=task.entry.binding.vendor)
        for task in tasks
        if task.kind == "change" and task.entry is not None
    ]
    return (*first_vendors((task.step, task.vendors) for task in new), *changes)
