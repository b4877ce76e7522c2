"""Doors to a wedding's own records: what is read before a deed and written after it."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from wedsync.domain.weddings.ledger import Binding, TransactionResult
from wedsync.store.projection_writer import ProjectionWriter
from wedsync.store.session import Database
from wedsync.usecases.webhooks.hasten import hasten_inbox
from wedsync.usecases.weddings.bind_step import BindStep, Links, bind_step
from wedsync.usecases.weddings.load_plan import LoadedPlan, LoadPlan, PlanShelf, load_plan
from wedsync.usecases.weddings.read_result import ReadResult, read_result
from wedsync.usecases.weddings.recall_answer import RecallAnswer, RecalledAnswer, recall_answer
from wedsync.usecases.weddings.record import (
    BeginTransaction,
    Begun,
    ClientProvider,
    Recorded,
    RecordWedding,
    SettleTransaction,
    ShowProgress,
    StepRow,
    TransactionNews,
    begin_transaction,
    record_wedding,
    settle_transaction,
    show_progress,
)
from wedsync.usecases.weddings.resolve_agenda import Agenda, ResolveAgenda, resolve_agenda
from wedsync.usecases.weddings.revise_plan import RevisedPlan, RevisePlan, revise_plan

__all__ = [
    "Agenda",
    "BeginTransaction",
    "Begun",
    "BindStep",
    "LoadPlan",
    "LoadedPlan",
    "ReadResult",
    "RecallAnswer",
    "RecalledAnswer",
    "RecordWedding",
    "Recorded",
    "ResolveAgenda",
    "RevisePlan",
    "RevisedPlan",
    "SettleTransaction",
    "ShowProgress",
    "StepRow",
    "TransactionNews",
    "WeddingActivities",
]


class WeddingActivities:
    """Local activities of the workflows, and writes on the queue `records`."""

    def __init__(
        self, db: Database, writer: ProjectionWriter, shelf: PlanShelf, links: Links, provide: ClientProvider
    ) -> None:
        self._db = db
        self._writer = writer
        self._provide = provide
        self._shelf = shelf
        self._links = links

    @activity.defn(name="wedding.load_plan")
    @translated
    async def load_plan(self, wanted: LoadPlan) -> LoadedPlan:
        """The compiled plan with its times resolved."""
        return await load_plan(self._shelf, wanted)

    @activity.defn(name="wedding.resolve_agenda")
    @translated
    async def resolve_agenda(self, wanted: ResolveAgenda) -> Agenda:
        """When each step that is not due yet will be."""
        return await resolve_agenda(self._shelf, wanted)

    @activity.defn(name="wedding.bind_step")
    @translated
    async def bind_step(self, wanted: BindStep) -> Binding:
        """Who is called for a step, and with what."""
        return await bind_step(self._writer, self._shelf, self._links, wanted)

    @activity.defn(name="wedding.begin_transaction")
    @translated
    async def begin_transaction(self, wanted: BeginTransaction) -> Begun:
        """Claim a transaction for the calling workflow's run and show it as running."""
        run_id = wanted.run_id or activity.info().workflow_run_id
        return await begin_transaction(self._writer, wanted.model_copy(update={"run_id": run_id}))

    @activity.defn(name="wedding.show_progress")
    @translated
    async def show_progress(self, wanted: ShowProgress) -> Recorded:
        """Show how a running transaction stands."""
        return await show_progress(self._writer, wanted)

    @activity.defn(name="wedding.settle_transaction")
    @translated
    async def settle_transaction(self, wanted: SettleTransaction) -> Recorded:
        """Write what a transaction came to, and tell its wedding."""
        return await settle_transaction(self._writer, self._provide, wanted)

    @activity.defn(name="wedding.record")
    @translated
    async def record_wedding(self, wanted: RecordWedding) -> Recorded:
        """Write the wedding's own state; on its day what waits of it in the inbox goes ahead."""
        recorded = await record_wedding(self._db, self._writer, wanted)
        if wanted.mode == "wedding_day":
            await hasten_inbox(self._db, self._provide, wanted.wedding_id)
        return recorded

    @activity.defn(name="wedding.read_result")
    @translated
    async def read_result(self, wanted: ReadResult) -> TransactionResult:
        """The full result of an older transaction."""
        return await read_result(self._db, wanted)

    @activity.defn(name="wedding.recall_answer")
    @translated
    async def recall_answer(self, wanted: RecallAnswer) -> RecalledAnswer:
        """The newest known answer to a read that nobody can answer now."""
        return await recall_answer(self._db, wanted)

    @activity.defn(name="wedding.revise_plan")
    @translated
    async def revise_plan(self, wanted: RevisePlan) -> RevisedPlan:
        """Write a new version of the plan."""
        return await revise_plan(self._db, self._shelf, wanted)
