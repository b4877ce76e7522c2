"""Runs the embedded stack as one object: started in order, kept alive, ended in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from pydantic import SecretStr
from temporalio.client import Client

from wedsync.domain import task_queues
from wedsync.domain.errors import WedsyncError
from wedsync.kit import logs, temporal
from wedsync.kit.settings import Settings
from wedsync.local import processes
from wedsync.local.environment import (
    API,
    POSTGRES,
    SANDBOX,
    TEMPORAL,
    WORKER,
    Layout,
    plan_layout,
    program_environment,
    temporal_location,
)
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.processes import Child, identify
from wedsync.local.ready import answers, polls, until_ready
from wedsync.local.state import LocalIdentity, RunInfo, StateDir, Supervision
from wedsync.local.temporal_server import EmbeddedTemporal

OnProgress = Callable[[str], None]
_PROGRAM_SECONDS = 120.0
_SERVER_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.1
#: A program that keeps dying is started again at once, then with growing pauses up to this.
_LONGEST_PAUSE_SECONDS = 1.0
_SHORT_LIFE_SECONDS = 5.0

log = logs.get(__name__)


class _Server(Protocol):
    @property
    def child(self) -> Child: ...
    def start(self) -> None: ...
    def restart(self) -> None: ...
    def stop(self) -> None: ...


class Supervisor:
    """Starts, watches and ends the parts of one stack. One at a time per state folder."""

    def __init__(
        self, settings: Settings, *, only: Set[str] | None = None, on_progress: OnProgress | None = None
    ) -> None:
        self._settings = settings
        self._state = StateDir(settings.state_dir)
        self._only = only
        self._say = on_progress or (lambda _: None)
        self._lock = self._state.lock()
        self._servers: dict[str, _Server] = {}
        self._programs: dict[str, Child] = {}
        self._short_lives: dict[str, int] = {}
        self._run: RunInfo | None = None

    # -- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> RunInfo:
        """Start everything and write `run.json`; what was started is ended again when a part fails.

        Raises StoreUnavailable, TemporalUnreachable, NotStarted or Conflict.
        """
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> RunInfo:
        await asyncio.to_thread(end_leftovers, self._state)
        self._state.remove_run()
        layout = plan_layout(self._settings, self._only)
        self._add_servers(layout)
        # It needs no server, so it loads while they start.
        self._spawn(SANDBOX, layout, self._environment(layout))
        await self._start_servers()
        layout = self._as_started(layout)
        environment = self._environment(layout)
        identity = await self._prepare(layout, environment)
        client = await self._start_programs(layout, environment)
        address, namespace = temporal_location(environment)
        self._run = RunInfo(
            api_url=layout.api_url,
            api_key=identity.api_key if identity else self._settings.api_key.get_secret_value(),
            organization_id=identity.organization_id if identity else "",
            temporal_address=address,
            namespace=client.namespace if client else namespace,
            temporal_ui_url=environment.get("WEDSYNC_TEMPORAL_UI_URL", ""),
            database_url=environment["WEDSYNC_DATABASE_URL"],
            sandbox_url=layout.sandbox_url,
            pids=self._pids(),
        )
        self._state.write_run(self._run)
        return self._run

    def _add_servers(self, layout: Layout) -> None:
        if POSTGRES in layout.parts:
            self._servers[POSTGRES] = EmbeddedPostgres(self._state.path / "postgres", port=layout.postgres_port)
        if TEMPORAL in layout.parts:
            self._servers[TEMPORAL] = EmbeddedTemporal(
                self._state.path / "temporal",
                port=layout.temporal_port,
                ui_port=layout.temporal_ui_port,
                codec_endpoint=f"{layout.local_api_url}/codec",
            )

    async def _start_servers(self) -> None:
        if self._servers:
            self._say(f"starting {' and '.join(self._servers)}")
            # Waits for all: a failed one must not leave another still starting in its thread.
            starts = (_finish(server.start) for server in self._servers.values())
            done = await asyncio.gather(*starts, return_exceptions=True)
            self._record()
            for error in (outcome for outcome in done if isinstance(outcome, BaseException)):
                raise error

    def _as_started(self, layout: Layout) -> Layout:
        # A server whose port was taken in the meantime listens on another.
        server = self._servers.get(TEMPORAL)
        if not isinstance(server, EmbeddedTemporal):
            return layout
        return replace(layout, temporal_port=server.port, temporal_ui_port=server.ui_port)

    def _environment(self, layout: Layout) -> dict[str, str]:
        from wedsync.vendors.registry import load_registry

        url = self._settings.database_url
        owner_url = self._settings.database_owner_url or url
        postgres = self._servers.get(POSTGRES)
        if isinstance(postgres, EmbeddedPostgres):
            url, owner_url = postgres.url(), postgres.url(owner=True)
        return program_environment(
            self._settings, layout, database_url=url, owner_url=owner_url, vendors=load_registry().manifests
        )

    async def _prepare(self, layout: Layout, environment: Mapping[str, str]) -> LocalIdentity | None:
        """Prepare what programs need when they start: migrations, search attributes, the local organization."""
        if layout.parts.isdisjoint({WORKER, API}):
            return None
        self._say("migrating")
        identity, _ = await asyncio.gather(self._migrate(environment), self._provision(environment))
        return identity

    async def _migrate(self, environment: Mapping[str, str]) -> LocalIdentity | None:
        from wedsync.store.db import migrate
        from wedsync.store.db.session import Database
        from wedsync.usecases.access import bootstrap

        url, owner_url = environment["WEDSYNC_DATABASE_URL"], environment["WEDSYNC_DATABASE_OWNER_URL"]
        await migrate.upgrade(owner_url, migrate.app_password(url) if owner_url != url else None)
        if not self._settings.is_local:
            return None
        known = self._state.read_identity()
        settings = self._settings
        if known is not None and not settings.api_key.get_secret_value():
            settings = settings.model_copy(update={"api_key": SecretStr(known.api_key)})
        db = Database(environment["WEDSYNC_DATABASE_URL"], pool_size=2)
        try:
            access = await bootstrap.ensure_local_organization(db, settings)
        finally:
            await db.close()
        identity = LocalIdentity(organization_id=access.organization_id, api_key=access.api_key)
        self._state.write_identity(identity)
        return identity

    async def _provision(self, environment: Mapping[str, str]) -> None:
        await temporal.provision(await temporal.connect(self._settings, environment=environment))

    async def _start_programs(self, layout: Layout, environment: Mapping[str, str]) -> Client | None:
        since = time.time()
        for name in (WORKER, API):
            self._spawn(name, layout, environment)
        client = None
        waits: list[Awaitable[None]] = []
        if SANDBOX in self._programs:
            waits.append(self._until(SANDBOX, lambda: answers(layout.sandbox_url)))
        if API in self._programs:
            waits.append(self._until(API, lambda: answers(f"{layout.local_api_url}/readyz", statuses=[200])))
        if WORKER in self._programs:
            client = await temporal.connect(self._settings, environment=environment)
            waits.append(self._until_polled(client, since))
        await asyncio.gather(*waits)
        return client

    def _spawn(self, name: str, layout: Layout, environment: Mapping[str, str]) -> None:
        if name not in layout.parts:
            return
        self._say(f"starting {name}")
        child = Child(
            name, [sys.executable, "-m", "wedsync", name], log=self._state.logs / f"{name}.log", env=environment
        )
        child.spawn()
        self._programs[name] = child
        self._record()

    async def _until(self, name: str, probe: Callable[[], Awaitable[bool]]) -> None:
        await until_ready(self._programs[name], probe, seconds=_PROGRAM_SECONDS)
        self._say(f"{name} is ready")

    async def _until_polled(self, client: Client, since: float) -> None:
        queue = self._settings.worker_queues.split(",")[0].strip() or task_queues.WORKFLOWS
        await self._until(WORKER, lambda: polls(client, queue, since))

    # -- watch ------------------------------------------------------------------------------------------------------

    async def watch(self, stopped: asyncio.Event) -> None:
        """Start again whatever dies, until `stopped` is set."""
        watched: Iterable[tuple[str, Callable[[], Child], Callable[[], None]]] = (
            *((name, lambda s=server: s.child, server.restart) for name, server in self._servers.items()),
            *((name, lambda c=child: c, child.spawn) for name, child in self._programs.items()),
        )
        tasks = [asyncio.create_task(self._keep(name, child, again)) for name, child, again in watched]
        await stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, child: Callable[[], Child], again: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if child().alive:
                continue
            self._say(f"{name} died: starting it again")
            log.warning("part_died", part=name)
            await asyncio.sleep(self._pause(name, child()))
            with suppress(WedsyncError):
                await _finish(again)
            self._record()
            if self._run is not None:
                self._run = self._run.model_copy(update={"pids": self._pids()})
                self._state.write_run(self._run)

    def _pause(self, name: str, child: Child) -> float:
        is_short = time.monotonic() - child.spawned_at < _SHORT_LIFE_SECONDS
        count = self._short_lives[name] = self._short_lives.get(name, 0) + 1 if is_short else 0
        return min(_LONGEST_PAUSE_SECONDS, 0.1 * 2**count) if count > 1 else 0.0

    # -- stop -------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End the programs, then the servers, and release the folder. What is stored stays."""
        self._state.remove_run()
        grace = self._settings.graceful_shutdown_seconds + 5
        await self._all(
            *(asyncio.to_thread(child.stop, grace if name == WORKER else 10) for name, child in self._programs.items())
        )
        await self._all(*(asyncio.to_thread(server.stop) for server in self._servers.values()))
        self._state.remove_supervision()
        self._lock.release()

    @staticmethod
    async def _all(*stops: Awaitable[None]) -> None:
        done = await asyncio.gather(*stops, return_exceptions=True)
        for error in (outcome for outcome in done if isinstance(outcome, Exception)):
            log.error("part_not_stopped", exc_info=error)

    def kill(self) -> None:
        """End the programs at once, when someone does not want to wait; `stop` then has little left to do."""
        for child in self._programs.values():
            if child.alive:
                child.kill()

    # -- records ----------------------------------------------------------------------------------------------------

    def _children(self) -> dict[str, Child]:
        found = dict(self._programs)
        for name, server in self._servers.items():
            with suppress(RuntimeError):
                found[name] = server.child
        return found

    def _pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children().items()}

    def _record(self) -> None:
        supervisor = identify(os.getpid())
        if supervisor is None:
            raise RuntimeError("this process cannot find itself")
        children = {name: child.identity() for name, child in self._children().items()}
        self._state.write_supervision(
            Supervision(
                supervisor=supervisor, children={name: one for name, one in children.items() if one is not None}
            )
        )


async def _finish(action: Callable[[], None]) -> None:
    """Run `action` in a thread to its end, even if cancelled: a process could appear after everything stopped."""
    running = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def end_leftovers(state: StateDir) -> bool:
    """End the children that a killed supervisor left behind; True when there were any."""
    supervision = state.read_supervision()
    if supervision is None:
        return False
    found = False
    # Programs before the servers that they use; Postgres takes SIGINT for its fast shutdown.
    for name in (API, WORKER, SANDBOX, TEMPORAL, POSTGRES):
        child = supervision.children.get(name)
        if child is not None and processes.is_alive(child):
            found = True
            first = signal.SIGINT if name == POSTGRES else signal.SIGTERM
            processes.end(child, grace_seconds=_SERVER_GRACE_SECONDS, first=first)
    state.remove_supervision()
    return found
