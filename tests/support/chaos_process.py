"""Runs a worker process that can be killed at any instant and is there again at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from wedsync.kit.settings import Settings

_START_SECONDS = 240.0
ROOT = Path(__file__).resolve().parents[2]


def worker_environment(settings: Settings, temporal_address: str) -> dict[str, str]:
    """Build the worker program's environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("WEDSYNC_", "TEMPORAL_", "OTEL_"))
    }
    for name, vendor in settings.vendors.items():
        prefix = f"WEDSYNC_VENDORS__{name.upper()}__"
        environment |= {
            f"{prefix}BASE_URL": vendor.base_url,
            f"{prefix}API_KEY": vendor.api_key.get_secret_value(),
            f"{prefix}ACCOUNT_ID": vendor.account_id,
            f"{prefix}CLIENT_ID": vendor.client_id,
            f"{prefix}CLIENT_SECRET": vendor.client_secret.get_secret_value(),
        }
    return environment | {
        "WEDSYNC_DATABASE_URL": settings.database_url,
        "WEDSYNC_API_URL": settings.api_url,
        "WEDSYNC_STATE_DIR": str(settings.state_dir),
        "WEDSYNC_LOG_LEVEL": "INFO",
        # Probes would count among the requests that faults hit and runs are compared by.
        "WEDSYNC_HEALTH_PROBES": "false",
        "TEMPORAL_ADDRESS": temporal_address,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "PYTHONUNBUFFERED": "1",
    }


class WorkerProcess:
    """A worker that serves, and one that has loaded everything and forks the next; use it as a context manager."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._serving = 0
        self.kills = 0

    def __enter__(self) -> WorkerProcess:
        reads, writes = os.pipe()
        with self._log.open("ab") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.support.chaos_worker"],
                cwd=ROOT,
                env={**self._environment, "CHAOS_SAYS": str(writes)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writes],
            )
        os.close(writes)
        self._said = os.fdopen(reads, "rb")
        self._serving = self._next()
        deadline = time.monotonic() + _START_SECONDS
        while b"worker.ready" not in self._log.read_bytes():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker did not start: see {self._log}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._serving:
                os.kill(self._serving, signal.SIGKILL)
            self._serving = 0
        if self._nursery is not None and self._nursery.stdin is not None:
            self._nursery.stdin.close()
            self._nursery.wait(_START_SECONDS)
        if self._said is not None:
            self._said.close()

    def kill(self) -> None:
        """SIGKILL, and the next one serves at once. From any thread."""
        with self._lock:
            if not self._serving:
                return
            os.kill(self._serving, signal.SIGKILL)
            self.kills += 1
            self._serving = self._next()

    def _next(self) -> int:
        """Have the next worker serve; its process id. Raises ValueError when there is none any more."""
        if self._nursery is None or self._nursery.stdin is None or self._said is None:
            return 0
        self._nursery.stdin.write(b"\n")
        self._nursery.stdin.flush()
        return int(self._said.readline())
