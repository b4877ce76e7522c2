"""Provides an embedded stack for the length of one command: the one that runs already, or one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from wedsync.cli import output as out
from wedsync.cli.client import ApiClient, Location, running_stack
from wedsync.cli.output import CliError

if TYPE_CHECKING:
    from wedsync.kit.settings import Settings

Json = dict[str, Any]
#: Settings that point at servers outside of a throwaway stack.
_OTHERS = ("TEMPORAL_", "WEDSYNC_DATABASE_", "WEDSYNC_VENDORS__", "WEDSYNC_API_", "WEDSYNC_TEMPORAL_")


@contextlib.contextmanager
def borrowed_stack(*, keep: bool) -> Generator[Json]:
    """Return `run.json` of the running local stack, which stays, or of one started now and stopped at the end.

    With `keep` it stays in any case. It is stopped on errors, ^C and SIGTERM too.
    """
    run = running_stack()
    if run is not None and asyncio.run(_answers(run)):
        yield run
        return
    from wedsync.kit.settings import Settings

    with _own_stack(Settings(), keep=keep) as started:
        yield started


@contextlib.contextmanager
def throwaway_stack() -> Generator[Json]:
    """Run a stack on free ports with its state in a temporary folder, gone afterwards."""
    from wedsync.kit.settings import Settings
    from wedsync.local import stack

    folder = Path(tempfile.mkdtemp(prefix="wedsync-rehearsal-"))
    try:
        with _without_servers_of_others():
            settings = Settings(environment="local", state_dir=folder, api_port=0, sandbox_port=0)
            with _own_stack(settings, keep=False) as started:
                yield started
    finally:
        _uninterrupted(lambda: stack.forget(folder))


@contextlib.contextmanager
def _without_servers_of_others() -> Generator[None]:
    """Hide every configured database, Temporal server and vendor within: a throwaway stack must touch none of them."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(_OTHERS):
            del os.environ[name]
    os.environ["WEDSYNC_ENVIRONMENT"] = "local"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _own_stack(settings: Settings, *, keep: bool) -> Generator[Json]:
    from wedsync.local import stack

    out.current().say("starting Postgres, Temporal, the stand-ins, a worker and the API")
    with terminated_as_interrupt():
        # Ends what it has started when it fails: a stack that is there all the same is another's.
        asyncio.run(stack.start_detached(settings))
        kept = False
        try:
            run = running_stack(settings.state_dir)
            if run is None:
                raise CliError("internal", "the stack did not write its run.json", out.INTERNAL)
            yield run
            kept = keep
        finally:
            if not kept:
                _uninterrupted(lambda: asyncio.run(stack.stop(settings)))


@contextlib.contextmanager
def terminated_as_interrupt() -> Generator[None]:
    """End the block on SIGTERM as ^C does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _uninterrupted(clean_up: Callable[[], object]) -> None:
    """Run `clean_up` to its end, whatever keys are pressed meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        clean_up()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _answers(run: Json) -> bool:
    async with ApiClient(Location(str(run["api_url"]), str(run["api_key"]))) as client:
        try:
            await client.get("/weddings", limit="1")
        except CliError:
            return False
    return True
