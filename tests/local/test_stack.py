"""The embedded stack as a library: layout, environment, supervision, leftovers. `test_up.py` runs the command."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from temporalio.client import Client

from wedsync.domain.errors import Conflict, InvalidInput
from wedsync.kit.settings import Settings
from wedsync.local import processes, stack
from wedsync.local.environment import PARTS, Layout, plan_layout, program_environment, temporal_location
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.ready import NotStarted
from wedsync.local.state import RunInfo, StateDir, Supervision
from wedsync.local.supervisor import end_leftovers
from wedsync.vendors.registry import load_registry


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    stack.forget(tmp_path / "state")


def _settings(folder: Path, **more: object) -> Settings:
    return Settings(state_dir=folder, api_port=0, sandbox_port=0, **more)  # type: ignore[arg-type]


def _environment(settings: Settings, layout: Layout) -> dict[str, str]:
    return program_environment(
        settings, layout, database_url="postgresql://a", owner_url="postgresql://o", vendors=load_registry().manifests
    )


def test_configured_servers_are_not_embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPORAL_CONFIG_FILE")
    assert plan_layout(_settings(folder)).parts == set(PARTS)
    assert "postgres" not in plan_layout(_settings(folder, database_url="postgresql://elsewhere/db")).parts
    monkeypatch.setenv("TEMPORAL_ADDRESS", "elsewhere:7233")
    layout = plan_layout(_settings(folder))
    assert "temporal" not in layout.parts
    assert temporal_location(_environment(_settings(folder), layout)) == ("elsewhere:7233", "default")


def test_the_sandbox_runs_in_the_local_environment_only(folder: Path) -> None:
    production = Settings.model_construct(**{**_settings(folder).model_dump(), "environment": "production"})
    assert "sandbox" not in plan_layout(production).parts


def test_a_port_asked_for_and_taken_is_a_conflict(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match="WEDSYNC_API_PORT"):
            plan_layout(Settings(state_dir=folder, api_port=port))


def test_an_unknown_part_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="kafka"):
        plan_layout(_settings(folder), {"kafka"})


def test_programs_find_every_vendor_at_its_stand_in_unless_the_user_says_otherwise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEDSYNC_VENDORS__STRIPE__API_KEY", "sk_test_mine")
    layout = plan_layout(_settings(folder))
    environment = _environment(_settings(folder), layout)
    for name in load_registry().manifests:
        assert environment[f"WEDSYNC_VENDORS__{name.upper()}__BASE_URL"] == f"{layout.sandbox_url}/{name}"
    assert environment["WEDSYNC_VENDORS__STRIPE__API_KEY"] == "sk_test_mine"
    assert environment["WEDSYNC_API_URL"] == f"http://127.0.0.1:{layout.api_port}"


def test_the_users_own_temporal_profile_does_not_reach_the_embedded_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPORAL_CONFIG_FILE")
    monkeypatch.setenv("TEMPORAL_API_KEY", "a cloud key")
    layout = plan_layout(_settings(folder))
    environment = _environment(_settings(folder), layout)
    assert "TEMPORAL_API_KEY" not in environment
    assert temporal_location(environment) == (f"127.0.0.1:{layout.temporal_port}", "default")


@pytest.mark.parametrize(
    ("url", "is_kept"),
    [("https://weddings.example", True), ("http://127.0.0.1:1", False), ("http://localhost:2", False)],
)
def test_a_public_url_is_kept_and_another_stacks_url_is_not(folder: Path, url: str, is_kept: bool) -> None:
    layout = plan_layout(_settings(folder, api_url=url))
    assert (layout.api_url == url) is is_kept


def _run_with_another(folder: Path, name: str, pid: int) -> RunInfo:
    assert processes.wait_until(lambda: (now := stack.read_run(folder)) and now.pids[name] != pid, 10.0)
    found = stack.read_run(folder)
    assert found is not None
    return found


async def test_parts_come_back_after_a_kill_and_data_stays(folder: Path) -> None:
    run, supervisor = await stack.start(_settings(folder), only={"postgres", "sandbox"})
    stopped = asyncio.Event()
    watching = asyncio.create_task(supervisor.watch(stopped))
    try:
        assert StateDir(folder).path.joinpath("run.json").stat().st_mode & 0o777 == 0o600
        assert set(run.pids) == {"postgres", "sandbox"}
        with pytest.raises(Conflict, match=r"runs already in .*wedsync down"):
            await stack.start(_settings(folder))
        owner_url = EmbeddedPostgres(folder / "postgres", port=int(run.database_url.rpartition(":")[2][:-8])).url(
            owner=True
        )
        with psycopg.connect(owner_url) as connection:
            connection.execute("CREATE TABLE kept ()")
        for name in ("sandbox", "postgres"):
            os.kill(run.pids[name], signal.SIGKILL)
            found = await asyncio.to_thread(_run_with_another, folder, name, run.pids[name])
            assert found.model_copy(update={"pids": {}}) == run.model_copy(update={"pids": {}})
        with psycopg.connect(owner_url) as connection:
            connection.execute("SELECT FROM kept")
    finally:
        stopped.set()
        await watching
        await supervisor.stop()
    assert stack.read_run(folder) is None
    assert not (folder / "run.json").exists()
    assert not any(processes.identify(pid) for pid in run.pids.values())


async def test_a_port_lost_while_starting_sends_everyone_to_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPORAL_CONFIG_FILE")
    layout = plan_layout(_settings(folder), {"temporal"})
    monkeypatch.setattr("wedsync.local.supervisor.plan_layout", lambda *_: layout)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", layout.temporal_port))
        stranger.listen()
        run, supervisor = await stack.start(_settings(folder), only={"temporal"})
        try:
            assert run.temporal_address != f"127.0.0.1:{layout.temporal_port}"
            assert (await Client.connect(run.temporal_address)).namespace == "default"
        finally:
            await supervisor.stop()


async def test_a_failed_start_leaves_nothing_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A program that ends at once, for a reason that its log tells.
    settings = _settings(folder)
    monkeypatch.setenv("WEDSYNC_LOG_FORMAT", "neither")
    with pytest.raises(NotStarted, match=r"(?s)sandbox ended while it started.*WEDSYNC_LOG_FORMAT"):
        await stack.start(settings, only={"postgres", "sandbox"})
    assert not StateDir(folder).is_locked()
    assert not (folder / "supervisor.json").exists()


@pytest.mark.parametrize("reached", ["logs/up.log", "supervisor.json", "postgres"])
async def test_a_start_in_the_background_that_is_given_up_leaves_nothing_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    begun: list[processes.Child] = []

    class Noted(processes.Child):
        def spawn(self) -> None:
            super().spawn()
            begun.append(self)

    monkeypatch.setattr(stack, "Child", Noted)
    starting = asyncio.create_task(stack.start_detached(_settings(folder)))
    assert await asyncio.to_thread(processes.wait_until, (folder / reached).exists, 30.0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (up,) = begun
    assert not up.alive
    assert not StateDir(folder).is_locked()
    assert not (folder / "supervisor.json").exists()


def _run_info() -> RunInfo:
    words = {name: "x" for name in RunInfo.model_fields if name != "pids"}
    return RunInfo(pids={"api": 1}, **words)


def test_what_a_killed_supervisor_left_is_ended_and_forgotten(folder: Path) -> None:
    state = StateDir(folder)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = processes.identify(child.pid)
    assert identity is not None
    dead = processes.Identity(pid=identity.pid, started="long ago")
    state.write_run(_run_info())
    state.write_supervision(Supervision(supervisor=dead, children={"worker": identity, "api": dead}))
    try:
        assert stack.stop_folder(folder)
        assert child.wait(5) == -signal.SIGTERM
    finally:
        child.kill()
        child.wait()
    assert state.read_run() is None
    assert not end_leftovers(state)
    assert not stack.stop_folder(folder)


def test_a_stale_file_never_ends_a_stranger(folder: Path) -> None:
    state = StateDir(folder)
    me = processes.identify(os.getpid())
    assert me is not None
    stale = processes.Identity(pid=me.pid, started="long ago")
    state.write_supervision(Supervision(supervisor=stale, children={"worker": stale}))
    assert not stack.stop_folder(folder)
    assert not (folder / "supervisor.json").exists()
