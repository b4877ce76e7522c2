"""Stage of the benchmarks: embedded Postgres and Temporal, and every program in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from bench.names import PEER_DATABASE
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.kit import temporal
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.local.ports import HOST, free_port
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.processes import Child
from wedsync.local.ready import answers, polls, until_ready
from wedsync.local.temporal_server import NAMESPACE, EmbeddedTemporal
from wedsync.store.db import migrate
from wedsync.store.db.session import Database
from wedsync.usecases.access import bootstrap
from wedsync.vendors.registry import load_registry

_ACCOUNT = {
    "api_key": "local-api-key",
    "account_id": "local-account",
    "client_id": "local-client",
    "client_secret": "local-client-secret",
}
_READY_SECONDS = 60.0


@dataclass
class Stage:
    """Programs that run, and how they are reached."""

    home: Path
    settings: Settings
    environment: dict[str, str]
    postgres: EmbeddedPostgres
    server: EmbeddedTemporal
    #: As the product connects: pydantic values, encrypted payloads.
    client: Client
    #: As a bare program connects: the SDK's own JSON.
    bare_client: Client
    db: Database
    sandbox_url: str
    api_url: str
    api_key: str
    organization_id: str
    programs: dict[str, Child] = field(default_factory=dict)

    def spawn(self, name: str, argv: list[str], **environment: str) -> Child:
        """Start a program in a process of its own."""
        child = Child(name, argv, log=self.home / "logs" / f"{name}.log", env={**self.environment, **environment})
        child.spawn()
        self.programs[name] = child
        return child

    def pids(self) -> dict[str, int]:
        """Return the processes by name."""
        every = {"postgres": self.postgres.child, "temporal": self.server.child, **self.programs}
        return {name: child.pid for name, child in every.items() if child.alive}

    async def start_worker(self, name: str = "worker") -> Child:
        """Start the product's own worker program."""
        since = time.time()
        child = self.spawn(name, [sys.executable, "-m", "wedsync", "worker"])
        await self.until_polled(child, self.client, WORKFLOWS, since)
        return child

    async def until_polled(self, child: Child, client: Client, queue: str, since: float = 0) -> None:
        """Wait until the program asks for work, after `since` (another may have asked before)."""
        await until_ready(child, lambda: polls(client, queue, since), seconds=_READY_SECONDS)


@contextlib.asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Start everything but the workers; end and delete it with the block."""
    home = Path(tempfile.mkdtemp(prefix="wedsync-bench-"))
    postgres, server = EmbeddedPostgres(home / "postgres"), EmbeddedTemporal(home / "temporal", headless=True)
    programs: dict[str, Child] = {}
    run = asyncio.current_task()
    if run is not None:
        # The programs are in sessions of their own: a run that is ended must end them itself.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.cancel)
    try:
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(server.start))
        postgres.create_database(PEER_DATABASE)
        stage = await _build(home, postgres, server, programs)
        try:
            yield stage
        finally:
            await stage.db.close()
    finally:
        for child in programs.values():
            await asyncio.to_thread(child.stop, 5)
        await asyncio.gather(asyncio.to_thread(postgres.destroy), asyncio.to_thread(server.stop))
        shutil.rmtree(home, ignore_errors=True)


async def _build(home: Path, postgres: EmbeddedPostgres, server: EmbeddedTemporal, programs: dict[str, Child]) -> Stage:
    sandbox_port, api_port = free_port(), free_port()
    sandbox_url, api_url = f"http://{HOST}:{sandbox_port}", f"http://{HOST}:{api_port}"
    vendors = {
        name: VendorSettings.model_validate({**_ACCOUNT, "base_url": f"{sandbox_url}/{name}"})
        for name in load_registry().manifests
    }
    settings = Settings(
        state_dir=home, database_url=postgres.url(), api_url=api_url, api_port=api_port, vendors=vendors
    )
    environment = _environment(settings, postgres, server, sandbox_port)
    await migrate.upgrade(postgres.url(owner=True), postgres.credentials.app_password)
    client = await temporal.connect(settings, environment=environment)
    await temporal.provision(client)
    db = Database(settings.database_url, 10)
    access = await bootstrap.ensure_local_organization(db, settings)
    stage = Stage(
        home=home,
        settings=settings,
        environment=environment,
        postgres=postgres,
        server=server,
        client=client,
        bare_client=await Client.connect(server.address, namespace=NAMESPACE),
        db=db,
        sandbox_url=sandbox_url,
        api_url=api_url,
        api_key=access.api_key,
        organization_id=access.organization_id,
        programs=programs,
    )
    sandbox = stage.spawn("sandbox", [sys.executable, "-m", "wedsync", "sandbox", "--port", str(sandbox_port)])
    api = stage.spawn("api", [sys.executable, "-m", "wedsync", "api"])
    await until_ready(sandbox, lambda: answers(sandbox_url), seconds=_READY_SECONDS)
    await until_ready(api, lambda: answers(f"{api_url}/readyz", statuses=[200]), seconds=_READY_SECONDS)
    return stage


def _environment(
    settings: Settings, postgres: EmbeddedPostgres, server: EmbeddedTemporal, sandbox_port: int
) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("WEDSYNC_", "TEMPORAL_", "OTEL_"))}
    ours = {
        "WEDSYNC_STATE_DIR": str(settings.state_dir),
        "WEDSYNC_DATABASE_URL": settings.database_url,
        "WEDSYNC_API_URL": settings.api_url,
        "WEDSYNC_API_PORT": str(settings.api_port),
        "WEDSYNC_SANDBOX_PORT": str(sandbox_port),
        "TEMPORAL_ADDRESS": server.address,
        "TEMPORAL_NAMESPACE": NAMESPACE,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "BENCH_PEER_DATABASE_URL": postgres.url(owner=True, database=PEER_DATABASE),
        "PYTHONUNBUFFERED": "1",
    }
    for name, vendor in settings.vendors.items():
        ours[f"WEDSYNC_VENDORS__{name.upper()}__BASE_URL"] = vendor.base_url
        for key, value in _ACCOUNT.items():
            ours[f"WEDSYNC_VENDORS__{name.upper()}__{key.upper()}"] = value
    return {**kept, **ours}


def commit() -> str:
    """Return the measured commit, with `+` when the tree differs; empty without git."""
    try:
        words = ["git", "describe", "--always", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
