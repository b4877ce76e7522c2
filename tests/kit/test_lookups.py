from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from wedsync.kit.lookups import Lookups, NoResolverFree, on_behalf_of


class Names:
    """A resolver whose `hang...` names are not answered before `let_go`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.free = threading.Event()

    def resolve_one(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        if host.startswith("hang"):
            self.free.wait(30)
        if host.startswith("unknown"):
            raise OSError("no such name")
        return ("8.8.8.8",)


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.free.set()


async def ask(lookups: Lookups, host: str, owner: str) -> object:
    with on_behalf_of(owner):
        try:
            return await lookups(host, 443)
        except (OSError, NoResolverFree) as error:
            return type(error)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads make it true
            await asyncio.sleep(0.005)


async def test_one_owners_hanging_names_take_its_own_share_of_the_threads_only(names: Names) -> None:
    lookups = Lookups(names.resolve_one, threads=4, each=2, seconds=0.2)
    hanging = [asyncio.create_task(ask(lookups, f"hang-{number}.test", "a")) for number in range(10)]
    await until(lambda: len(names.asked) == 2)
    assert (
        await asyncio.gather(*(ask(lookups, f"well-{number}.test", "b") for number in range(10))) == [("8.8.8.8",)] * 10
    )
    assert sorted(map(str, await asyncio.gather(*hanging))) == sorted(
        map(str, [TimeoutError] * 2 + [NoResolverFree] * 8)
    )


async def test_when_every_thread_is_taken_it_is_not_the_names_fault(names: Names) -> None:
    lookups = Lookups(names.resolve_one, threads=2, each=2, seconds=0.2)
    hanging = [asyncio.create_task(ask(lookups, f"hang-{number}.test", "a")) for number in range(2)]
    await until(lambda: len(names.asked) == 2)
    assert await ask(lookups, "well.test", "b") is NoResolverFree
    await asyncio.gather(*hanging)
    names.free.set()
    assert await ask(lookups, "well.test", "b") == ("8.8.8.8",)


async def test_a_name_is_looked_up_once_for_all_who_ask_and_kept_for_a_moment(names: Names) -> None:
    lookups = Lookups(names.resolve_one)
    found = await asyncio.gather(*(ask(lookups, "well.test", str(owner)) for owner in range(20)))
    assert (found, names.asked) == ([("8.8.8.8",)] * 20, ["well.test"])
    forgetful = Lookups(names.resolve_one, keep_seconds=0)
    await ask(forgetful, "well.test", "a")
    await ask(forgetful, "well.test", "a")
    assert names.asked == ["well.test"] * 3


async def test_a_name_that_does_not_resolve_is_asked_for_again_only_after_a_moment(names: Names) -> None:
    lookups = Lookups(names.resolve_one)
    assert [await ask(lookups, "unknown.test", "a") for _ in range(3)] == [OSError] * 3
    assert names.asked == ["unknown.test"]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1"])
async def test_an_address_needs_no_lookup(names: Names, address: str) -> None:
    assert await ask(Lookups(names.resolve_one), address, "a") == [address]
    assert names.asked == []
