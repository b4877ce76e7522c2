"""Runs processes beside a test, each reporting on a pipe of its own: nothing that it prints is taken for a report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
#: Names the descriptor on which the process reports.
_CHANNEL = "WEDSYNC_TEST_REPORTS"
_LONGEST_REPORT_BYTES = 4 * 1024 * 1024
_PATIENCE_SECONDS = 60


def report(value: Any) -> None:
    """Send the test a value that JSON can hold; the process itself calls this."""
    line = json.dumps(value).encode() + b"\n"
    channel = int(os.environ[_CHANNEL])
    while line:
        line = line[os.write(channel, line) :]


@dataclass(frozen=True)
class Peer:
    """A process as its test sees it."""

    process: asyncio.subprocess.Process
    reports: asyncio.StreamReader

    async def reported(self) -> Any:
        """Return the next report. Fails when none comes in time, or the process has ended."""
        line = await asyncio.wait_for(self.reports.readline(), _PATIENCE_SECONDS)
        assert line, "the process has ended"
        return json.loads(line)

    def say(self, line: str) -> None:
        """Send a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def end(self) -> None:
        """Close its standard input, upon which it ends, and wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()


@contextlib.asynccontextmanager
async def peers(count: int, module: str, *arguments: object) -> AsyncIterator[list[Peer]]:
    """Start `python -m module arguments` so often; end all with the block."""
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            peer = await _started(stack, module, *map(str, arguments))
            stack.push_async_callback(peer.end)
            started.append(peer)
        yield started


async def _started(stack: contextlib.AsyncExitStack, module: str, *arguments: str) -> Peer:
    reading, writing = os.pipe()
    reports = asyncio.StreamReader(limit=_LONGEST_REPORT_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(reading, "rb", 0)
    )
    stack.callback(transport.close)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(writing,),
            env={**os.environ, _CHANNEL: str(writing)},
        )
    finally:
        os.close(writing)
    return Peer(process, reports)
