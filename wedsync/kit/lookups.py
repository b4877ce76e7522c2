"""Look names up, so that nobody's slow names hold up another's: the system's resolver can't be interrupted.

Each lookup holds a thread until the resolver gives up, which may take half a minute. So one owner has few at once, a
name is looked up once however many ask, and an answer is kept for a moment. A request that finds no thread free
raises, which says nothing about the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from wedsync.domain.errors import WedsyncError

#: How long to wait for a lookup, and before it for a thread.
SECONDS = 5.0
#: Lookups at once, and those of one owner.
THREADS = 64
EACH = 8
#: An answer is kept for so long. It is checked at every use.
KEEP_SECONDS = 20.0
_KEEP_FAILURE_SECONDS = 2.0
_MOST_KEPT = 10_000

_owner: ContextVar[str] = ContextVar("lookups_owner", default="")


class NoResolverFree(WedsyncError):
    """The name was not looked up: every thread that its owner may have is busy."""

    code: ClassVar[str] = "no_resolver_free"


class _Kept(NamedTuple):
    until: float
    answer: tuple[str, ...] | Exception


@contextlib.contextmanager
def on_behalf_of(owner: str) -> Iterator[None]:
    """Make the lookups within the owner's (an organization's id)."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def resolve_host(host: str) -> tuple[str, ...]:
    """Return every address of a host by the system's resolver; blocks, raises OSError or UnicodeError."""
    return tuple(str(answer[4][0]) for answer in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))


class Lookups:
    """Makes the lookups of one event loop."""

    def __init__(
        self,
        resolve_one: Callable[[str], tuple[str, ...]] = resolve_host,
        *,
        threads: int = THREADS,
        each: int = EACH,
        seconds: float = SECONDS,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        """Run `resolve_one` in a thread; at most `threads` at once, and `each` for one owner."""
        self._resolve = resolve_one
        self._most, self._each = threads, each
        self._seconds, self._keep_seconds = seconds, keep_seconds
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="resolve")
        self._kept: dict[str, _Kept] = {}
        self._flying: dict[str, asyncio.Task[tuple[str, ...] | Exception]] = {}
        self._busy: Counter[str] = Counter()
        self._freed = asyncio.Condition()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return every address of a host; raises OSError, UnicodeError, NoResolverFree."""
        if _is_address(host):
            return [host]
        kept = self._kept.get(host)
        if kept is not None and kept.until > time.monotonic():
            return _open(host, kept.answer)
        flight = self._flying.get(host) or await self._begin(host, _owner.get())
        done, _ = await asyncio.wait([flight], timeout=self._seconds)
        if not done:
            raise TimeoutError(f"{host} was not resolved within {self._seconds:g} s")
        return _open(host, flight.result())

    async def _begin(self, host: str, owner: str) -> asyncio.Task[tuple[str, ...] | Exception]:
        try:
            async with asyncio.timeout(self._seconds), self._freed:
                await self._freed.wait_for(lambda: host in self._flying or self._has_room(owner))
                flight = self._flying.get(host)
                if flight is None:
                    self._busy[owner] += 1
                    flight = self._flying[host] = asyncio.create_task(self._fly(host, owner), name="look-up")
                return flight
        except TimeoutError:
            raise NoResolverFree("no resolver is free") from None

    def _has_room(self, owner: str) -> bool:
        return self._busy[owner] < self._each and self._busy.total() < self._most

    async def _fly(self, host: str, owner: str) -> tuple[str, ...] | Exception:
        """Return the answer or the error, kept either way; never raises."""
        answer: tuple[str, ...] | Exception
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host)
        except (OSError, UnicodeError) as error:
            answer = error
        finally:
            del self._flying[host]
            self._busy[owner] -= 1
            self._busy += Counter()
            async with self._freed:
                self._freed.notify_all()
        seconds = _KEEP_FAILURE_SECONDS if isinstance(answer, Exception) else self._keep_seconds
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[host] = _Kept(time.monotonic() + seconds, answer)
        return answer


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Lookups] = WeakKeyDictionary()


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of a host within 10 s; raises OSError, UnicodeError, NoResolverFree."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loop:
        _of_loop[loop] = Lookups()
    return await _of_loop[loop](host, port)


def _open(host: str, answer: tuple[str, ...] | Exception) -> Sequence[str]:
    if isinstance(answer, Exception):
        raise OSError(f"{host} can't be resolved") from answer
    return answer


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
