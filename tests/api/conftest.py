"""The API on a real Postgres, asked in process; a real Temporal server only where a test says so."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client

from api.app import create_app
from api.examples import PLAN
from tests.support.proxy import gate, gateway_sandbox  # noqa: F401 - fixtures
from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.weddings.projection import ProjectionWrite, StepWrite, TransactionMove
from wedsync.domain.weddings.step import StepState
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import Settings
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection
from wedsync.usecases.access.bootstrap import LocalAccess, ensure_local_organization

_numbers = itertools.count(1)


async def no_temporal() -> Client:
    raise TemporalUnreachable("no Temporal here")


@dataclass
class Api:
    """One running application and a client of it."""

    app: FastAPI
    http: httpx.AsyncClient
    db: Database
    access: LocalAccess
    settings: Settings

    def key(self) -> dict[str, str]:
        """A fresh Idempotency-Key."""
        return {"Idempotency-Key": f"test-{next(_numbers)}"}

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.http.post(f"/api/v1{path}", json=body, headers={**self.key(), **headers})

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.http.get(f"/api/v1{path}", params=params or None)

    def plan(self, **wedding: Any) -> dict[str, Any]:
        """A valid plan with an id of its own."""
        said = {**PLAN["wedding"], "id": f"wedding-{next(_numbers)}", **wedding}
        return {**PLAN, "wedding": said}

    async def wedding(self) -> dict[str, Any]:
        """A wedding, handed in."""
        response = await self.post("/weddings", self.plan())
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def orchestrated(self) -> tuple[str, str]:
        """A wedding and its running orchestration."""
        wedding_id = (await self.wedding())["id"]
        response = await self.post(f"/weddings/{wedding_id}/transactions", {"kind": "orchestrate"})
        assert response.status_code == 202, response.text
        return wedding_id, response.json()["id"]

    async def move(self, wedding_id: str, transaction_id: str, status: str, version: int = 5) -> None:
        """As the workflow would: the transaction takes another status."""
        async with self.db.tenant(self.access.organization_id) as conn:
            moved = TransactionMove(id=transaction_id, status=status, version=version)
            await projection.apply_writes(conn, [self.projection(wedding_id, moves=(moved,))])

    async def hold(self, wedding_id: str, step_id: str, transaction_id: str, status: str = "held") -> None:
        """As the workflow would: the step waits for a decision."""
        state = StepState(step_id=step_id, transaction_id=transaction_id, status=status)
        async with self.db.tenant(self.access.organization_id) as conn:
            shown = StepWrite(state=state, version=5)
            await projection.apply_writes(conn, [self.projection(wedding_id, steps=(shown,))])

    def projection(self, wedding_id: str, **rows: Any) -> ProjectionWrite:
        """A write of this wedding's rows."""
        return ProjectionWrite(
            organization_id=self.access.organization_id, wedding_id=wedding_id, now=utc_now(), **rows
        )


NewApi = Callable[..., Any]


@pytest.fixture
async def new_api(settings: Settings) -> AsyncIterator[NewApi]:
    """Makes an application on a database: `await new_api(urls, client_provider, **settings)`."""
    async with AsyncExitStack() as stack:

        async def make(urls: Any, provider: Any = no_temporal, **changes: Any) -> Api:
            changed = settings.model_copy(
                update={
                    "database_url": urls.app,
                    "database_pool_size": 5,
                    "temporal_ui_url": "http://ui.test",
                    **changes,
                }
            )
            # Remembered from before the change.
            changed.__dict__.pop("is_local", None)
            app = create_app(changed, provider)
            await stack.enter_async_context(app.router.lifespan_context(app))
            db: Database = app.state.database
            access = await ensure_local_organization(db, settings)
            http = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://api.test",
                headers={"Authorization": f"Bearer {access.api_key}"},
            )
            await stack.enter_async_context(http)
            return Api(app, http, db, access, changed)

        yield make


@pytest.fixture
async def api(new_api: NewApi, database_urls: Any) -> Api:
    """The application on the shared database, with no Temporal."""
    made: Api = await new_api(database_urls)
    return made
