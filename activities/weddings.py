"""Read a wedding's own records before a call and write them after it."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from wedsync.domain.weddings.binding import Preparation
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.usecases.inbox.hasten import hasten_inbox
from wedsync.usecases.plans.load import LoadedPlan, LoadPlan, PlanShelf, load_plan
from wedsync.usecases.weddings.begin_transaction import BeginTransaction, Begun, FirstSteps, begin_transaction
from wedsync.usecases.weddings.prepare_steps import Links, PrepareSteps, StepAtVendor, prepare_steps
from wedsync.usecases.weddings.recall_answer import RecallAnswer, RecalledAnswer, recall_answer
from wedsync.usecases.weddings.record_wedding import (
    Recorded,
    RecordWedding,
    ShowProgress,
    StepRow,
    record_wedding,
    show_progress,
)
from wedsync.usecases.weddings.resolve_agenda import Agenda, ResolveAgenda, resolve_agenda
from wedsync.usecases.weddings.revise_plan import RevisedPlan, RevisePlan, revise_plan
from wedsync.usecases.weddings.settle_transaction import Settled, SettleTransaction, settle_transaction
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

__all__ = [
    "Agenda",
    "BeginTransaction",
    "Begun",
    "FirstSteps",
    "LoadPlan",
    "LoadedPlan",
    "PrepareSteps",
    "RecallAnswer",
    "RecalledAnswer",
    "RecordWedding",
    "Recorded",
    "ResolveAgenda",
    "RevisePlan",
    "RevisedPlan",
    "SettleTransaction",
    "Settled",
    "ShowProgress",
    "StepAtVendor",
    "StepRow",
    "WeddingActivities",
    "WeddingHeader",
]


def _run_id() -> str:
    """Return the run of the workflow that the activity belongs to."""
    return activity.info().workflow_run_id or ""


class WeddingActivities:
    """Local activities of the workflows, and writes on the queue `records`."""

    def __init__(
        self, db: Database, writer: HeldWriter, shelf: PlanShelf, links: Links, provide: ClientProvider
    ) -> None:
        self._db = db
        self._writer = writer
        self._provide = provide
        self._shelf = shelf
        self._links = links

    @activity.defn(name="wedding.load_plan")
    @translated
    async def load_plan(self, wanted: LoadPlan) -> LoadedPlan:
        """Read the compiled plan with its times resolved."""
        return await load_plan(self._shelf, wanted)

    @activity.defn(name="wedding.resolve_agenda")
    @translated
    async def resolve_agenda(self, wanted: ResolveAgenda) -> Agenda:
        """Say when each step that is not due yet will be."""
        return await resolve_agenda(self._shelf, wanted)

    @activity.defn(name="wedding.prepare_steps")
    @translated
    async def prepare_steps(self, wanted: PrepareSteps) -> Preparation:
        """Read the inputs of steps' bindings."""
        return await prepare_steps(self._shelf, self._links, wanted)

    @activity.defn(name="wedding.begin_transaction")
    @translated
    async def begin_transaction(self, wanted: BeginTransaction) -> Begun:
        """Claim a transaction for the calling workflow's run, and show it as running."""
        return await begin_transaction(self._writer, self._shelf, self._links, wanted, _run_id())

    @activity.defn(name="wedding.show_progress")
    @translated
    async def show_progress(self, wanted: ShowProgress) -> Recorded:
        """Show the present state of a running transaction."""
        return await show_progress(self._writer, wanted, _run_id())

    @activity.defn(name="wedding.settle_transaction")
    @translated
    async def settle_transaction(self, wanted: SettleTransaction) -> Settled:
        """Write a transaction's outcome."""
        return await settle_transaction(self._writer, self._shelf, wanted, _run_id())

    @activity.defn(name="wedding.record")
    @translated
    async def record_wedding(self, wanted: RecordWedding) -> Recorded:
        """Write the wedding's own state; on its day, put its waiting events in the inbox ahead."""
        recorded = await record_wedding(self._db, self._writer, wanted, _run_id())
        if wanted.wedding is not None and wanted.wedding.mode == "wedding_day":
            await hasten_inbox(self._db, self._provide, wanted.header.wedding_id)
        return recorded

    @activity.defn(name="wedding.recall_answer")
    @translated
    async def recall_answer(self, wanted: RecallAnswer) -> RecalledAnswer:
        """Read the newest known answer to a read that no vendor can answer now."""
        return await recall_answer(self._db, wanted)

    @activity.defn(name="wedding.revise_plan")
    @translated
    async def revise_plan(self, wanted: RevisePlan) -> RevisedPlan:
        """Write a new version of the plan."""
        return await revise_plan(self._db, self._shelf, wanted)
