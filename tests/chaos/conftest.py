"""The long runs: `make chaos` runs them whole, `make test` a seeded sample of each."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos_stage import ChaosStage, open_chaos
from wedsync.local.temporal_server import EmbeddedTemporal

#: Read before the tests' own environment is made bare.
_FULL = os.environ.get("WEDSYNC_CHAOS") == "full"
_ROWS: list[dict[str, object]] = []
_COLUMNS = (
    "run", "points", "seeds", "kills", "completed", "held", "rolled back", "attention", "duplicates", "unaccounted",
    "seconds",
)  # fmt: skip

_OPEN_SECONDS = 2.0
_SHORTER = {"timeout_seconds": 3.0, "settling_seconds": 2.0, "open_seconds": _OPEN_SECONDS}
Open = Callable[..., AbstractAsyncContextManager[ChaosStage]]


def times(full: bool, **options: Any) -> dict[str, Any]:
    """Production's times in the whole run, shorter ones in the sample; and other options of a stage."""
    return {**({} if full else _SHORTER), **options}


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this is `make chaos`."""
    return _FULL


@pytest.fixture(scope="session")
def report() -> list[dict[str, object]]:
    """Rows of the table that is printed at the end."""
    return _ROWS


@pytest.fixture
def open_stage(fresh_database_urls: Any, temporal_server: EmbeddedTemporal, tmp_path: Path) -> Open:
    """Opens a stage with a database of its own; see `open_chaos` for the options."""

    def opened(**options: Any) -> AbstractAsyncContextManager[ChaosStage]:
        return open_chaos(fresh_database_urls.app, temporal_server.address, tmp_path, **options)

    return opened


@pytest.fixture
async def chaos(open_stage: Open, full: bool) -> AsyncIterator[ChaosStage]:
    """A stage with production's times in the whole run, with shorter ones in the sample."""
    async with open_stage(**times(full)) as stage:
        yield stage


@pytest.fixture
async def forgiving_chaos(open_stage: Open, full: bool) -> AsyncIterator[ChaosStage]:
    """The same, with circuits that soon let calls through again whatever the probes before them said."""
    async with open_stage(**times(full, open_seconds=_OPEN_SECONDS)) as stage:
        yield stage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if not _FULL or not _ROWS:
        return
    cells = [_COLUMNS, *(tuple(str(row.get(name, "")) for name in _COLUMNS) for row in _ROWS)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    terminalreporter.section("chaos")
    for row in cells:
        terminalreporter.write_line("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
