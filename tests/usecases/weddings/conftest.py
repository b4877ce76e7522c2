"""A recorded wedding that nobody runs, and its plan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from temporalio.client import Client

from tests.support.plans import booking, event, plan
from tests.support.stage import Stage, Staged
from wedsync.kit.settings import Settings
from wedsync.store.db.session import Database
from wedsync.store.weddings.projection_writer import ProjectionWriter
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader
from wedsync.vendors.registry import load_registry

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A pool of connections."""
    database = Database(database_url, 3)
    yield database
    await database.close()


@pytest.fixture
async def wedding(db: Database, settings: Settings) -> Staged:
    """A recorded wedding that nobody runs."""
    stage = Stage(settings, None, db, None)  # type: ignore[arg-type]
    return await stage.wedding(plan(booking("venue"), event(at="ceremony - 3d"), event("after", at="event + 1d")))


@pytest.fixture
def shelf(db: Database) -> PlanShelf:
    """The plans."""
    return PlanShelf(db, load_registry().manifests)


@pytest.fixture
def writer(db: Database) -> HeldWriter:
    """Who writes for the runs of a workflow that Temporal does not know."""

    async def provide() -> Client:
        raise RuntimeError("nobody is there")

    return HeldWriter(ProjectionWriter(db), provide)


@pytest.fixture
def header(wedding: Staged) -> WeddingHeader:
    """The wedding's first write."""
    return WeddingHeader(organization_id=wedding.organization_id, wedding_id=wedding.id, version=12, now=NOW)
