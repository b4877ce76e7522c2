"""Events are posted while Temporal, Postgres or the worker is killed: none is lost, none is acted on twice.

`WEDSYNC_CHAOS=full` posts 2,000 events around each kill; otherwise a sample.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, insert, select
from temporalio.client import Client
from temporalio.service import RPCError

from api.app import create_app
from tests.support.webhook_worker import LISTENING, ListeningWedding
from wedsync.domain.errors import WedsyncError
from wedsync.domain.weddings.messages import wedding_workflow_id
from wedsync.kit import temporal
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.temporal_server import EmbeddedTemporal
from wedsync.store.access.tables import organizations
from wedsync.store.db import migrate
from wedsync.store.db.session import Database
from wedsync.store.inbox.tables import inbox
from wedsync.store.weddings.tables import weddings
from wedsync.usecases.inbox.sweep import sweep_inbox

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 2000 if os.environ.get("WEDSYNC_CHAOS") == "full" else 120
WEDDINGS = 5
VICTIMS = ("temporal", "worker", "postgres")
#: A source sends again so soon after a 503.
RESEND_SECONDS = 0.2


@dataclass
class Site:
    """Servers of this test alone, the API in this process, the worker in its own."""

    home: Path
    postgres: EmbeddedPostgres
    temporal: EmbeddedTemporal
    settings: Settings
    client: Client
    db: Database
    http: httpx.AsyncClient
    wedding_ids: list[str] = field(default_factory=list)
    worker: subprocess.Popen[bytes] | None = None
    answers: Counter[int] = field(default_factory=Counter)

    async def start_worker(self) -> None:
        self.worker = await asyncio.to_thread(self._spawn)
        assert self.worker.stdout is not None
        assert await asyncio.to_thread(self.worker.stdout.readline) == b"ready\n", "the worker did not start"

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "TEMPORAL_ADDRESS": self.temporal.address,
            "WEDSYNC_DATABASE_URL": self.settings.database_url,
        }
        with (self.home / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.webhook_worker"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def kill_worker(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            for pipe in (self.worker.stdin, self.worker.stdout):
                assert pipe is not None
                pipe.close()
            self.worker = None

    async def post(self, number: int) -> None:
        """Post as Stripe does: again and again until it is acknowledged."""
        metadata = {"wedding_id": self.wedding_ids[number % WEDDINGS], "step_id": "deposit"}
        intent = {"id": f"pi_{number}", "object": "payment_intent", "metadata": metadata}
        event = {"id": f"evt_{number}", "type": "payment_intent.succeeded", "data": {"object": intent}}
        body = json.dumps(event).encode()
        (secret,) = self.settings.vendor_webhook_secrets("stripe")
        while True:
            stamp = str(int(time.time()))
            mac = hmac.digest(secret.encode(), stamp.encode() + b"." + body, "sha256").hex()
            headers = {"Stripe-Signature": f"t={stamp},v1={mac}"}
            answer = await self.http.post("/api/integrations/webhooks/stripe", content=body, headers=headers)
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                return
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(RESEND_SECONDS)

    async def post_all(self, numbers: range) -> None:
        slots = asyncio.Semaphore(20)

        async def one(number: int) -> None:
            async with slots:
                await self.post(number)

        await asyncio.gather(*(one(number) for number in numbers))

    async def until_processed(self, count: int, seconds: float) -> None:
        """Wait for the rows, with the sweep that runs each minute run each second."""

        async def provide() -> Client:
            return self.client

        async with asyncio.timeout(seconds):
            while (found := await self.states()) != {"processed": count}:
                try:
                    await sweep_inbox(self.db, provide, utc_now() + timedelta(seconds=11))
                except (RPCError, WedsyncError):
                    assert found, "the sweep failed before anything was recorded"
                await asyncio.sleep(1)

    async def states(self) -> dict[str, int]:
        try:
            async with self.db.system() as conn:
                rows = await conn.execute(select(inbox.c.state, func.count()).group_by(inbox.c.state))
                return {row[0]: row[1] for row in rows}
        except WedsyncError:
            return {"unreachable": 1}

    async def acted(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for wedding_id in self.wedding_ids:
            handle = self.client.get_workflow_handle(wedding_workflow_id(wedding_id))
            total.update(await handle.query(ListeningWedding.acted))
        return total


async def _add_weddings(site: Site) -> None:
    now = utc_now()
    site.wedding_ids = [new_id() for _ in range(WEDDINGS)]
    row = {
        "organization_id": "o1",
        "status": "active",
        "phase": "preparation",
        "mode": "normal",
        "ceremony_local": "2027-06-19T16:00",
        "zone": "Europe/Rome",
        "ceremony_at": now,
        "plan_version": 1,
        "created_at": now,
        "updated_at": now,
    }
    async with site.db.system() as conn:
        await conn.execute(insert(organizations).values(id="o1", name="Studio", created_at=now))
        await conn.execute(insert(weddings), [{**row, "id": one, "reference": one} for one in site.wedding_ids])
    for one in site.wedding_ids:
        await site.client.start_workflow(ListeningWedding.run, id=wedding_workflow_id(one), task_queue=LISTENING)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    temporal_server = EmbeddedTemporal(tmp_path / "temporal", headless=True)
    try:
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(temporal_server.start))
        await migrate.upgrade(postgres.url(owner=True), postgres.credentials.app_password)
        settings = Settings(database_url=postgres.url(), state_dir=tmp_path)
        client = await Client.connect(temporal_server.address, data_converter=temporal.data_converter(settings))

        async def provide() -> Client:
            return client

        app = create_app(settings, provide)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api.test", timeout=60) as http:
                made = Site(tmp_path, postgres, temporal_server, settings, client, app.state.database, http)
                await _add_weddings(made)
                await made.start_worker()
                try:
                    yield made
                finally:
                    made.kill_worker()
    finally:
        temporal_server.stop()
        postgres.destroy()


async def _kill_and_restart(site: Site, victim: str) -> None:
    if victim == "worker":
        site.kill_worker()
        await asyncio.sleep(0.5)
        await site.start_worker()
        return
    server: Any = site.temporal if victim == "temporal" else site.postgres
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.restart)


async def test_kills_amid_a_stream_of_events_lose_none_and_repeat_none(site: Site) -> None:
    for round_, victim in enumerate(VICTIMS):
        first = round_ * EVENTS
        third = EVENTS // 3
        await site.post_all(range(first, first + third))
        flow = asyncio.create_task(site.post_all(range(first + third, first + EVENTS)))
        await asyncio.sleep(0.05)
        await _kill_and_restart(site, victim)
        await flow
        # A source that missed our answer sends again.
        await site.post_all(range(first, first + EVENTS, 10))
        await site.until_processed(first + EVENTS, 120 if EVENTS < 1000 else 300)
        assert await site.acted() == Counter({f"evt_{number}": 1 for number in range(first + EVENTS)}), victim
        if victim == "temporal":
            assert site.answers[503] == 0, "Temporal down is none of the sources' business"
