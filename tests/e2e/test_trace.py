"""One trace from a planner's request to a vendor, through the programs as they are started for users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.collector import Collector, collector
from wedsync.local import stack
from wedsync.local.processes import wait_until

__all__ = ["collector"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path, collector: Collector) -> dict[str, str]:
    """A stack of its own that pushes its spans to the collector at once."""
    return {
        **{name: value for name, value in os.environ.items() if name != "TEMPORAL_CONFIG_FILE"},
        "WEDSYNC_STATE_DIR": str(tmp_path / "state"),
        "WEDSYNC_API_PORT": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def wedsync(environment: dict[str, str], *words: str) -> dict[str, object]:
    """Run one verb with `--json` and return what it printed."""
    argv = [sys.executable, "-m", "wedsync", "--json", *words]
    done = subprocess.run(argv, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_one_trace_runs_from_the_api_through_the_saga_to_the_vendor(
    environment: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    try:
        wedsync(environment, "up", "--detach")
        wedsync(environment, "run", "examples/elopement.yaml", "--watch")
        wait_until(lambda: any(span.name == "generic request" for span in collector.spans()), 20)
    finally:
        stack.forget(tmp_path / "state")
    spans = collector.spans()
    (vendor,) = [span for span in spans if span.name == "generic request"]
    names = {span.name for span in spans if span.trace_id == vendor.trace_id}
    assert any(name.startswith("POST /api/v1/weddings/") for name in names), names
    # The wedding's own span ends with the wedding.
    assert {"RunActivity:wedding.begin_transaction", "RunActivity:vendor.call"} <= names
