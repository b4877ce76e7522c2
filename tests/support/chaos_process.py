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

from wedsync.kit.settings import Settings

_START_SECONDS = 60.0
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
    """One worker that serves and a spare one that stands ready; use it as a context manager."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._lock = threading.Lock()
        self._serving: subprocess.Popen[bytes] | None = None
        self._spare: subprocess.Popen[bytes] | None = None
        self._dead: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def __enter__(self) -> WorkerProcess:
        self._spare = self._start()
        self._promote()
        deadline = time.monotonic() + _START_SECONDS
        while b"worker.ready" not in self._log.read_bytes():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker did not start: see {self._log}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for process in (self._serving, self._spare):
                if process is not None:
                    process.kill()
                    self._dead.append(process)
            self._serving = self._spare = None
        for process in self._dead:
            process.wait(10)
            if process.stdin is not None:
                process.stdin.close()

    def kill(self) -> None:
        """Send SIGKILL; the spare one serves at once. From any thread."""
        with self._lock:
            if self._serving is None:
                return
            os.kill(self._serving.pid, signal.SIGKILL)
            self._dead.append(self._serving)
            self.kills += 1
        self._promote()

    def _promote(self) -> None:
        with self._lock:
            self._serving, self._spare = self._spare, self._start()
            if self._serving is not None and self._serving.stdin is not None:
                self._serving.stdin.write(b"\n")
                self._serving.stdin.flush()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.chaos_worker"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
