"""What one wedding costs: counts, not times, so that they hold on every machine."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from temporalio import activity
from temporalio.api.enums.v1 import EventType

from bench.plans import elopement
from tests.support.stage import Stage
from wedsync.dispatch.weddings import dispatch
from wedsync.kit.ids import new_id
from wedsync.store.db.session import Database
from wedsync.store.weddings.projection_writer import ProjectionWriter

#: The task that writes projections for every caller of the process.
WRITER = ProjectionWriter._write_all.__name__


@dataclass
class Asked:
    """What was asked of Postgres by the worker's connections."""

    commits: int = 0
    statements: int = 0


@dataclass(frozen=True)
class Costs:
    """One five-step wedding of seven vendor calls, from its dispatch to its settled transaction."""

    events: int
    workflow_tasks: int
    activities: int
    markers: int
    bytes: int
    commits: int
    statements: int


@contextmanager
def counted(*others: Database) -> Iterator[Asked]:
    """Count the transactions and statements of activities and of the projections' writer, but not those on `others`.

    What a process does by itself is left out: polls, and the records of calls that it writes together.
    """
    found, begin = Asked(), Database._begun
    engines = {id(other._engine.sync_engine) for other in others}

    async def begun(db: Database, *args: Any) -> Any:
        found.commits += db not in others and _is_a_weddings()
        return await begin(db, *args)

    def on_statement(connection: Connection, *_: Any) -> None:
        found.statements += id(connection.engine) not in engines and _is_a_weddings()

    event.listen(Engine, "before_cursor_execute", on_statement)
    Database._begun = begun  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Database._begun = begin  # type: ignore[method-assign]
        event.remove(Engine, "before_cursor_execute", on_statement)


def _is_a_weddings() -> bool:
    task = asyncio.current_task()
    return activity.in_activity() or (task is not None and task.get_coro().__name__ == WRITER)


async def costs(stage: Stage, dispatcher: Database) -> Costs:
    """Run a wedding that the API's side dispatches, watched through its own query, which costs Postgres nothing."""
    wedding = await stage.wedding(elopement(f"w-{new_id().lower()}"))
    tx = await wedding.request_change(undispatched=True)
    with counted(stage.db, dispatcher) as asked:
        await dispatch(dispatcher, stage.client, tx)
        await wedding.when("plan", lambda plan: all(step["status"] == "succeeded" for step in plan.values()))
        await wedding.when("agenda", lambda later: later == [])
        await wedding.until_history_rests()
    history = await wedding.handle.fetch_history()
    kinds = Counter(EventType.Name(one.event_type) for one in history.events)
    assert (await wedding.transaction(tx)).status == "completed"
    return Costs(
        events=len(history.events),
        workflow_tasks=kinds["EVENT_TYPE_WORKFLOW_TASK_COMPLETED"],
        activities=kinds["EVENT_TYPE_ACTIVITY_TASK_SCHEDULED"],
        markers=kinds["EVENT_TYPE_MARKER_RECORDED"],
        bytes=sum(one.ByteSize() for one in history.events),
        commits=asked.commits,
        statements=asked.statements,
    )


async def test_a_five_step_wedding_costs_no_more_than_this(stage: Stage) -> None:
    """The least of three: what others do in this process at the same time is counted, too."""
    dispatcher = Database(stage.settings.database_url, 1)
    every = [await costs(stage, dispatcher) for _ in range(3)]
    await dispatcher.close()
    assert min(one.events for one in every) <= 52
    assert min(one.workflow_tasks for one in every) <= 8
    assert min(one.activities for one in every) <= 7
    assert min(one.markers for one in every) <= 3
    assert min(one.bytes for one in every) <= 22 * 1024
    assert min(one.commits for one in every) <= 10
    assert min(one.statements for one in every) <= 10
