"""Stage of the long runs: a worker process that can be killed, the API that receives webhooks, many weddings."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import text
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from api.app import create_app
from tests.support import chaos_points
from tests.support.chaos_process import WorkerProcess, worker_environment
from tests.support.chaos_sandbox import WatchedSandbox
from tests.support.stage import Stage, Staged, stage_settings
from wedsync.dispatch.weddings import dispatch
from wedsync.domain.errors import WedsyncError
from wedsync.domain.plans.plan import Plan
from wedsync.kit import temporal
from wedsync.kit.settings import Settings
from wedsync.kit.standin import LedgerEntry
from wedsync.sandbox.app import listen
from wedsync.store.db.session import Database

FINAL = frozenset({"completed", "rolled_back", "held", "needs_attention", "cancelled"})
_MOVING_STEPS = frozenset({"running", "waiting"})
_MOVING_TRANSACTIONS = frozenset({"running", "rolling_back"})
_POLL_SECONDS = 0.3
#: Errors that a dispatch raises while no worker answers.
_UNDISPATCHED = (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, RuntimeError, WedsyncError)
_START_SECONDS = 30.0
_QUERIES = 5


@dataclass
class Story:
    """One wedding of a run."""

    staged: Staged
    number: int
    tx: str = ""
    undo_tx: str = ""
    #: As Postgres shows them once nothing moves any more.
    status: str = ""
    steps: dict[str, Any] = field(default_factory=dict)
    transactions: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the wedding's id."""
        return self.staged.id

    def is_settled(self) -> bool:
        """Tell whether nothing of it can happen by itself."""
        asked = self.undo_tx or self.tx
        return (
            self.transactions.get(asked, "") in FINAL
            and not _MOVING_TRANSACTIONS & set(self.transactions.values())
            and not any(step.status in _MOVING_STEPS for step in self.steps.values())
        )


class ChaosStage:
    """Parts that a run works with."""

    def __init__(self, stage: Stage, worker: WorkerProcess) -> None:
        self.stage = stage
        self.worker = worker
        self._watched: dict[str, tuple[Story, asyncio.Event]] = {}

    #: What a tell, or an update, raises while no worker answers.
    undispatched: tuple[type[BaseException], ...] = _UNDISPATCHED

    @property
    def sandbox(self) -> WatchedSandbox:
        """Return the vendors."""
        sandbox = self.stage.sandbox
        assert isinstance(sandbox, WatchedSandbox)
        return sandbox

    async def story(self, number: int, plan: Plan) -> Story:
        """Record a wedding of which nothing is requested yet."""
        return Story(await self.stage.wedding(plan), number)

    async def orchestrate(self, story: Story, *, undispatched: bool = False) -> None:
        """Ask for the orchestration; `undispatched`: only record it, as one who then dies."""
        story.tx = await self._ask(story, "orchestrate", undispatched=undispatched)

    async def undo(self, story: Story, *, undispatched: bool = False) -> None:
        """Ask for its undo."""
        story.undo_tx = await self._ask(story, "undo", undispatched=undispatched, target=story.tx)

    async def _ask(self, story: Story, kind: str, **request: Any) -> str:
        """Request it until the wedding has it: while a worker is being replaced the first dispatch may fail."""
        try:
            return await story.staged.request_change(kind, **request)
        except _UNDISPATCHED:
            tx = await self._newest(story)
        while True:
            with contextlib.suppress(*_UNDISPATCHED):
                await dispatch(self.stage.db, self.stage.client, tx)
                return tx

    async def _newest(self, story: Story) -> str:
        async with self.stage.db.system() as conn:
            sql = "SELECT id FROM transactions WHERE wedding_id = :id ORDER BY requested_at DESC LIMIT 1"
            return str((await conn.execute(text(sql), {"id": story.id})).scalar_one())

    async def settled(self, story: Story, seconds: float) -> str:
        """Wait until nothing moves in the wedding; return what still moves when the time is up, else empty."""
        event = asyncio.Event()
        self._watched[story.id] = (story, event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
            return ""
        except TimeoutError:
            moving = {name: step.status for name, step in story.steps.items() if step.status in _MOVING_STEPS}
            return f"{story.number} ({story.id}) did not settle: {story.transactions}, {moving}"
        finally:
            self._watched.pop(story.id, None)

    async def watch(self) -> None:
        """Poll all weddings that are waited for, in two queries a round."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if not self._watched:
                continue
            stories = {wedding_id: story for wedding_id, (story, _) in self._watched.items()}
            await self.refresh(stories)
            for wedding_id, story in stories.items():
                if story.is_settled() and wedding_id in self._watched:
                    self._watched[wedding_id][1].set()

    async def refresh(self, stories: dict[str, Story]) -> None:
        """Read what Postgres shows of the weddings."""
        ids = {"ids": list(stories)}
        async with self.stage.db.system() as conn:
            rows = await conn.execute(
                text("SELECT id, wedding_id, status FROM transactions WHERE wedding_id = ANY(:ids)"), ids
            )
            transactions = rows.all()
            steps = (await conn.execute(text("SELECT * FROM steps WHERE wedding_id = ANY(:ids)"), ids)).all()
        for row in transactions:
            stories[row.wedding_id].transactions[row.id] = row.status
        for row in steps:
            stories[row.wedding_id].steps[row.step_id] = row
        for story in stories.values():
            story.status = story.transactions.get(story.undo_tx or story.tx, "")

    def held(self, story: Story) -> list[tuple[str, LedgerEntry]]:
        """List every effect that a vendor holds or held for the wedding, with the vendor's name."""
        return self.sandbox.ledgers().get(story.id, [])

    async def rechecks(self, story: Story) -> set[str]:
        """The steps that the wedding will look at again by itself."""
        waiting = await self._answer(story, "waiting")
        return {one["step_id"] for one in waiting if one["what"] == "recheck"}

    async def _answer(self, story: Story, query: str) -> Any:
        """Ask the wedding until it answers: a busy machine's worker may take longer than a query waits."""
        for _ in range(_QUERIES):
            with contextlib.suppress(RPCError):
                return await story.staged.handle.query(query)
        return await story.staged.handle.query(query)


@contextlib.contextmanager
def real_api(settings: Settings, bound: socket.socket, temporal_address: str) -> Iterator[None]:
    """Serve the API on a thread of its own: the vendors' signed webhooks come in here."""
    made: list[Client] = []

    async def provide() -> Client:
        if not made:
            made.append(await Client.connect(temporal_address, data_converter=temporal.data_converter(settings)))
        return made[0]

    config = uvicorn.Config(
        create_app(settings, provide), log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), name="api", daemon=True)
    bound.listen(2048)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise TimeoutError("the API did not start")
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        if thread.is_alive():
            faulthandler.dump_traceback(all_threads=True)


async def _end_all(client: Client) -> None:
    """End all workflows: the server serves the next stage, too, whose database doesn't know these weddings."""
    async for found in client.list_workflows("ExecutionStatus = 'Running'"):
        with contextlib.suppress(RPCError):
            await client.get_workflow_handle(found.id, run_id=found.run_id).terminate(reason="the stage has closed")


@contextlib.asynccontextmanager
async def open_chaos(
    database_url: str,
    temporal_address: str,
    folder: Path,
    *,
    timeout_seconds: float = 0,
    settling_seconds: float = 0,
    open_seconds: float = 0,
    asks: bool = False,
) -> AsyncIterator[ChaosStage]:
    """Sandbox, webhook door and a worker process on the given servers; shorter times than production's where given.

    `asks`: the worker stops at `sandbox.points`, too.
    """
    with (
        contextlib.closing(listen(0)) as bound,
        WatchedSandbox(
            Settings(state_dir=folder, api_url=(api_url := f"http://127.0.0.1:{bound.getsockname()[1]}"))
        ) as sandbox,
    ):
        settings = stage_settings(database_url, sandbox, folder, api_url=api_url)
        environment = worker_environment(settings, temporal_address)
        if timeout_seconds:
            environment["CHAOS_TIMEOUT_SECONDS"] = str(timeout_seconds)
        if settling_seconds:
            environment["CHAOS_SETTLING_SECONDS"] = str(settling_seconds)
        if open_seconds:
            environment["CHAOS_OPEN_SECONDS"] = str(open_seconds)
        if asks:
            environment |= chaos_points.environment(sandbox.base_url)
        client = await Client.connect(temporal_address, data_converter=temporal.data_converter(settings))
        db = Database(database_url, 5)
        with (
            real_api(settings, bound, temporal_address),
            WorkerProcess(environment, folder / "worker.log") as worker,
        ):
            sandbox.strike = worker.kill
            chaos = ChaosStage(Stage(settings, client, db, sandbox), worker)
            watcher = asyncio.create_task(chaos.watch())
            try:
                yield chaos
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
                await sandbox.close()
                await db.close()
                await _end_all(client)
