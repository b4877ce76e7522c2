from __future__ import annotations

import asyncio
import sys

import pytest

from wedsync.kit import loop


async def _note(found: list[str]) -> None:
    found.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_a_program_runs_on_uvloop() -> None:
    found: list[str] = []
    loop.run(_note(found))
    assert found == ["uvloop"]


def test_a_program_runs_on_asyncios_own_loop_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    found: list[str] = []
    loop.run(_note(found))
    assert found == ["asyncio"]
