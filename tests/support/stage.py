"""A stage for weddings: real Postgres, real Temporal, the sandbox over HTTP, and workers in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text
from temporalio.client import Client, WorkflowHandle

from tests.support.puppet import Puppet
from wedsync.dispatch.weddings import dispatch
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.plan import Plan
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import (
    VENDOR_EVENT_SIGNAL,
    Decision,
    TransactionRequest,
    wedding_workflow_id,
)
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.kit.plan_file import read_plan
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.db.session import Database
from wedsync.vendors.registry import Registry, load_registry
from workers.main import make_worker, open_activities
from workers.queues import plans

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENDED = {"completed", "rolled_back", "held", "needs_attention", "cancelled"}


def stage_settings(database_url: str, sandbox: EmbeddedSandbox, state_dir: Path, **changes: Any) -> Settings:
    """Local settings whose vendors all stand in the sandbox."""
    vendors = {
        name: VendorSettings.model_validate(
            {
                "base_url": sandbox.vendor_url(name),
                "api_key": "local-api-key",
                # SendGrid's account is the sender of its mail.
                "account_id": "weddings@villa.example" if name == "sendgrid" else "local-account",
                "client_id": "local-client",
                "client_secret": "local-client-secret",
            }
        )
        for name in load_registry().manifests
    }
    values = {"database_url": database_url, "state_dir": state_dir, "vendors": vendors, "api_url": "http://127.0.0.1:9"}
    return Settings(**{**values, **changes})


def read_example(name: str) -> Plan:
    """One of the example plans."""
    file = EXAMPLES / name
    plan, errors = read_plan(file.read_text(encoding="utf-8"), str(file))
    assert plan is not None, errors
    return plan


@dataclass
class Staged:
    """One wedding on the stage."""

    stage: Stage
    id: str
    organization_id: str
    plan: Plan
    _seq: int = 0

    async def request_change(self, kind: str = "orchestrate", undispatched: bool = False, **request: Any) -> str:
        """Record a transaction and hand it over, as the API does; returns its id."""
        self._seq += 1
        tx = request.pop("id", None) or new_id()
        asked = TransactionRequest(id=tx, kind=kind, seq=self._seq, **request)
        async with self.stage.db.tenant(self.organization_id) as conn:
            await conn.execute(
                text(
                    "INSERT INTO transactions (id, organization_id, wedding_id, kind, status, gaps, request, step_ids, "
                    "requested_at) VALUES (:id, :org, :wedding, :kind, 'running', '[]', CAST(:request AS jsonb), "
                    "'[]', now())"
                ),
                {
                    "id": tx,
                    "org": self.organization_id,
                    "wedding": self.id,
                    "kind": kind,
                    "request": asked.model_dump_json(),
                },
            )
        if not undispatched:
            await self.dispatch(tx)
        return tx

    async def dispatch(self, tx: str) -> None:
        """Hand a recorded transaction over."""
        await dispatch(self.stage.db, self.stage.client, tx)

    async def until_history_rests(self, seconds: float = 30) -> None:
        """Wait until the workflow's history has stopped growing: nothing but a timer is open."""
        async with asyncio.timeout(seconds):
            while True:
                before = (await self.handle.describe()).history_length
                await asyncio.sleep(0.3)
                found = await self.handle.describe()
                raw = found.raw_description
                is_open = bool(raw.pending_activities) or raw.HasField("pending_workflow_task")
                if found.history_length == before and not is_open:
                    return

    async def decide(self, step_id: str, choice: str, vendor: str | None = None) -> str:
        """A person's word on a held step."""
        decision = Decision.model_validate({"step_id": step_id, "choice": choice, "vendor": vendor})
        return await self.request_change("scheduled", decision=decision)

    async def transaction(self, tx: str) -> Any:
        """The transaction's row."""
        async with self.stage.db.tenant(self.organization_id) as conn:
            return (await conn.execute(text("SELECT * FROM transactions WHERE id = :id"), {"id": tx})).one()

    async def steps(self) -> dict[str, Any]:
        """The steps' rows by id."""
        async with self.stage.db.tenant(self.organization_id) as conn:
            rows = await conn.execute(text("SELECT * FROM steps WHERE wedding_id = :id"), {"id": self.id})
            return {row.step_id: row for row in rows}

    async def until(self, tx: str, *statuses: str, seconds: float = 60) -> Any:
        """Wait until the transaction's row has one of the statuses (default: settled for good or held)."""
        wanted = set(statuses) or ENDED
        async with asyncio.timeout(seconds):
            while True:
                row = await self.transaction(tx)
                if row.status in wanted:
                    return row
                await asyncio.sleep(0.02)

    async def until_step(self, step_id: str, *statuses: str, seconds: float = 60) -> Any:
        """Wait until the step's row has one of the statuses."""
        async with asyncio.timeout(seconds):
            while True:
                row = (await self.steps())[step_id]
                if row.status in statuses:
                    return row
                await asyncio.sleep(0.02)

    async def until_said(self, puppet: Puppet, calls: int, seconds: float = 30, *, is_busy: bool = False) -> None:
        """Wait until the puppet has heard so many calls for this wedding and the wedding is at rest, or may be busy."""
        async with asyncio.timeout(seconds):
            while True:
                if len(puppet.said(self.id)) >= calls and (is_busy or not await self._is_busy()):
                    return
                await asyncio.sleep(0.02)

    async def _is_busy(self) -> bool:
        return any(row.status in ("running", "rolling_back") for row in await self.transactions())

    async def at_rest(self, seconds: float = 30) -> None:
        """Wait until the wedding's workflow has nothing more to do by itself now."""
        async with asyncio.timeout(seconds):
            while True:
                found = (await self.handle.describe()).raw_description
                is_quiet = not found.pending_activities and not found.HasField("pending_workflow_task")
                if is_quiet and not await self._is_busy():
                    return
                await asyncio.sleep(0.02)

    async def when(self, query: str, check: Callable[[Any], bool], seconds: float = 30) -> Any:
        """The answer to a query of the wedding, as soon as it passes the check."""
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.handle.query(query)
                if check(answer):
                    return answer
                await asyncio.sleep(0.02)

    async def transactions(self, kind: str | None = None) -> list[Any]:
        """The transactions' rows, oldest first."""
        async with self.stage.db.tenant(self.organization_id) as conn:
            rows = await conn.execute(
                text("SELECT * FROM transactions WHERE wedding_id = :id ORDER BY requested_at, id"), {"id": self.id}
            )
            return [row for row in rows if kind is None or row.kind == kind]

    async def plan_versions(self) -> list[dict[str, Any]]:
        """The stored versions of the plan, oldest first."""
        async with self.stage.db.tenant(self.organization_id) as conn:
            rows = await conn.scalars(
                text("SELECT body FROM plans WHERE wedding_id = :id ORDER BY version"), {"id": self.id}
            )
            return list(rows)

    async def reminders(self) -> list[str]:
        """The steps that watchers were reminded of, in order."""
        async with self.stage.db.tenant(self.organization_id) as conn:
            rows = await conn.execute(
                text("SELECT data FROM wedding_events WHERE wedding_id = :id ORDER BY id"), {"id": self.id}
            )
            return [row.data["id"] for row in rows if row.data.get("reminder")]

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        """The wedding's workflow."""
        return self.stage.client.get_workflow_handle(wedding_workflow_id(self.id))

    async def say(self, step_id: str, event_type: str, **changes: Any) -> None:
        """A vendor's word about a step, as the inbox's drain passes it on."""
        steps = await self.steps()
        values = {
            "source": steps[step_id].vendor,
            "event_id": new_id(),
            "type": event_type,
            "vendor_type": event_type,
            "object_id": steps[step_id].external_id,
            "wedding_id": self.id,
            "step_id": step_id,
        }
        await self.handle.signal(VENDOR_EVENT_SIGNAL, VendorEvent.model_validate({**values, **changes}))

    async def ledger(self) -> list[dict[str, Any]]:
        """Every effect that any vendor holds for this wedding."""
        found = []
        for vendor in self.stage.vendors():
            for entry in await self.stage.sandbox.ledger(vendor):
                if entry["wedding_id"] == self.id:
                    found.append({**entry, "vendor": vendor})
        return found


@dataclass
class Stage:
    """The running pieces."""

    settings: Settings
    client: Client
    db: Database
    sandbox: EmbeddedSandbox
    organization_id: str = field(default_factory=new_id)
    registry: Registry = field(default_factory=load_registry)

    def vendors(self) -> list[str]:
        """All vendors with a stand-in."""
        return sorted(name for name, manifest in load_registry().manifests.items() if manifest.has_api)

    async def wedding(self, plan: Plan) -> Staged:
        """Record a wedding as the API does; its plan id is made unique."""
        wedding_id = new_id()
        steps = compile_plan(plan, self.registry.manifests)
        async with self.db.system() as conn:
            await conn.execute(
                text(
                    "INSERT INTO organizations (id, name, created_at) VALUES (:id, 'stage', now()) "
                    "ON CONFLICT DO NOTHING"
                ),
                {"id": self.organization_id},
            )
        async with self.db.tenant(self.organization_id) as conn:
            await conn.execute(
                text(
                    "INSERT INTO weddings (id, organization_id, reference, status, phase, mode, ceremony_local, zone, "
                    "ceremony_at, plan_version, created_at, updated_at) "
                    "VALUES (:id, :org, :id, 'planned', 'preparation', 'normal', :local, :zone, :at, 1, now(), now())"
                ),
                {
                    "id": wedding_id,
                    "org": self.organization_id,
                    "local": plan.wedding.ceremony.at,
                    "zone": plan.wedding.ceremony.zone,
                    "at": utc_now() + timedelta(days=100),
                },
            )
            await conn.execute(
                text(
                    "INSERT INTO plans (organization_id, wedding_id, version, body, created_at) "
                    "VALUES (:org, :id, 1, CAST(:body AS jsonb), now())"
                ),
                {"org": self.organization_id, "id": wedding_id, "body": plan.model_dump_json()},
            )
            for position, step in enumerate(steps):
                await conn.execute(
                    text(
                        "INSERT INTO steps (organization_id, wedding_id, step_id, position, service, capability, "
                        "action, status) VALUES (:org, :id, :step, :position, :service, :capability, :action, :status)"
                    ),
                    {
                        "org": self.organization_id,
                        "id": wedding_id,
                        "step": step.id,
                        "position": position,
                        "service": step.service,
                        "capability": step.capability,
                        "action": step.action,
                        "status": "scheduled" if step.at else "pending",
                    },
                )
        return Staged(self, wedding_id, self.organization_id, plan)


@contextlib.asynccontextmanager
async def open_stage(settings: Settings, client: Client, sandbox: EmbeddedSandbox) -> AsyncIterator[Stage]:
    """Workers on every queue, for as long as the stage is open."""
    db = Database(settings.database_url, 5)
    async with open_activities(settings, client) as worker_activities, contextlib.AsyncExitStack() as stack:
        for plan in plans(worker_activities, settings):
            await stack.enter_async_context(make_worker(client, plan, settings))
        try:
            yield Stage(settings, client, db, sandbox)
        finally:
            await db.close()
