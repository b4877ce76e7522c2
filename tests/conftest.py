"""What every test can ask for: a real Postgres, a real Temporal server, the shared contracts; sockets only local.

All of it is started at first use, once per test process, and ended with it.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from temporalio.client import Client
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from wedsync.kit import temporal
from wedsync.kit.settings import Settings
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.temporal_server import EmbeddedTemporal, dynamic_config_args, program

ROOT = Path(__file__).resolve().parent.parent
_TEMPLATE = "wedsync_template"
_numbers = itertools.count(1)


# -- logs -------------------------------------------------------------------------------------------------------------

# As the programs do: what a server of another test logs meanwhile is no part of what a command prints.
structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


# -- sockets only local -----------------------------------------------------------------------------------------------


def _is_local(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    with suppress(ValueError):
        text = host.decode() if isinstance(host, bytes) else str(host)
        address = ipaddress.ip_address(text.partition("%")[0])
        return address.is_loopback or address.is_unspecified
    return False


def _refuse_remote(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise PermissionError(f"tests reach only this machine, not {address[0]}")
    elif event == "socket.getaddrinfo" and not _is_local(args[0]) and not _is_address(args[0]):
        raise PermissionError(f"tests resolve no names: {args[0]!r}")


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return False
    return True


sys.addaudithook(_refuse_remote)


# -- settings and shared files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _bare_environment() -> Iterator[None]:
    """The developer's own settings and Temporal profile do not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WEDSYNC_", "TEMPORAL_", "OTEL_")):
                patch.delenv(name)
        patch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)
        yield


def _shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.fail(f"the folder ../shared/{name} is missing beside the project: these tests read the vendors' files")
    return folder


@pytest.fixture(scope="session")
def contracts_dir() -> Path:
    """`../shared/contracts`: the vendors' own OpenAPI files."""
    return _shared("contracts")


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """`../shared/vectors`: published test vectors."""
    return _shared("vectors")


# -- Postgres ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatabaseUrls:
    """One migrated database: as the application's role and as the owner of the tables."""

    app: str
    owner: str


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running Postgres, one per test process, without migrations."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), hasty=True)
    try:
        server.start()
        yield server
    finally:
        server.destroy()


@pytest.fixture(scope="session")
async def new_database(postgres_server: EmbeddedPostgres) -> Callable[[], DatabaseUrls]:
    """Makes a new migrated database at each call (about 50 ms); it goes away with the server."""
    from wedsync.store.db import migrate

    postgres_server.create_database(_TEMPLATE)
    await migrate.upgrade(postgres_server.url(owner=True, database=_TEMPLATE), postgres_server.credentials.app_password)

    def make() -> DatabaseUrls:
        name = f"wedsync_test_{next(_numbers)}"
        postgres_server.create_database(name, template=_TEMPLATE)
        return DatabaseUrls(
            app=postgres_server.url(database=name), owner=postgres_server.url(owner=True, database=name)
        )

    return make


@pytest.fixture(scope="session")
def database_urls(new_database: Callable[[], DatabaseUrls]) -> DatabaseUrls:
    """The migrated database that this test process shares."""
    return new_database()


@pytest.fixture(scope="session")
def database_url(database_urls: DatabaseUrls) -> str:
    """The shared database, as the application's role."""
    return database_urls.app


@pytest.fixture(scope="session")
def owner_database_url(database_urls: DatabaseUrls) -> str:
    """The shared database, as the owner of the tables."""
    return database_urls.owner


@pytest.fixture
def fresh_database_urls(new_database: Callable[[], DatabaseUrls]) -> DatabaseUrls:
    """A migrated database that this test alone uses."""
    return new_database()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Local settings with a state folder of their own; add a database by `model_copy(update=...)`."""
    return Settings(state_dir=tmp_path_factory.mktemp("state"))


# -- Temporal ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
async def temporal_env() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal server that skips time, with our search attributes and encrypted payloads.

    Start workflows inside `env.with_time_skipping_disabled()` and use `env.fast_forward(handle, ...)`.
    """
    skipping = {
        "frontend.WorkflowTimeSkippingEnabled": "true",
        "history.timerProcessorMaxPollRPS": "2000",
        "history.timerProcessorMaxPollHostRPS": "2000",
        # This server waits for a new run's first task by the wall's clock, however far the workflow's own has skipped.
        "history.workflowIdReuseMinimalInterval": '"0s"',
    }
    env = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(max_session_skip_count=10_000),
        data_converter=temporal.data_converter(Settings()),
        search_attributes=temporal.SEARCH_ATTRIBUTES,
        dev_server_existing_path=str(program()),
        dev_server_log_level="error",
        dev_server_startup_timeout=timedelta(seconds=30),
        dev_server_extra_args=[*dynamic_config_args(), *dynamic_config_args(skipping)],
    )
    try:
        yield env
    finally:
        await env.shutdown()


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTemporal]:
    """A plain Temporal dev server (`.address`), its own process: it can be killed and restarted."""
    server = EmbeddedTemporal(tmp_path_factory.mktemp("temporal"), headless=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def temporal_client(temporal_server: EmbeddedTemporal) -> Client:
    """A client of `temporal_server` with encrypted payloads."""
    return await Client.connect(temporal_server.address, data_converter=temporal.data_converter(Settings()))


# -- the end ----------------------------------------------------------------------------------------------------------

_exit_status: list[int] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # Temporal's native threads sometimes crash the interpreter while it shuts down, after every result is in: leave
    # with pytest's own status instead.
    if _exit_status and not hasattr(config, "workerinput"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status[-1])
