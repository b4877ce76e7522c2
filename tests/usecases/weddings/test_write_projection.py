"""Who may write of a wedding, when two runs of its workflow say that they are it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.errors import to_application_error
from wedsync.domain.errors import StoreUnavailable, TemporalUnreachable
from wedsync.domain.weddings.messages import wedding_workflow_id
from wedsync.domain.weddings.projection import ProjectionWrite, Written
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
HEADER = WeddingHeader(organization_id="o", wedding_id="w", version=12, now=NOW)


class Rows:
    """A wedding's rows, held by a run."""

    def __init__(self, holder: str | None) -> None:
        self.holder = holder
        self.writes: list[ProjectionWrite] = []

    async def write(self, write: ProjectionWrite) -> Written:
        self.writes.append(write)
        if self.holder not in (None, write.run_id, write.takes_from):
            return Written(contested_by=self.holder)
        self.holder = write.run_id
        return Written(has_settled=True)


class Temporal:
    """Knows which run is current; counts how often it is asked."""

    def __init__(self, current: str | Exception) -> None:
        self.current = current
        self.asked: list[str] = []

    async def provide(self) -> Any:
        return self

    def get_workflow_handle(self, workflow_id: str) -> Any:
        self.asked.append(workflow_id)
        return self

    async def describe(self, *, rpc_timeout: timedelta) -> Any:
        if isinstance(self.current, Exception):
            raise self.current
        return SimpleNamespace(run_id=self.current)


def held(rows: Rows, temporal: Temporal) -> HeldWriter:
    return HeldWriter(rows, temporal.provide)  # type: ignore[arg-type]


@pytest.mark.parametrize("holder", [None, "mine"])
async def test_who_holds_the_wedding_asks_nobody(holder: str | None) -> None:
    rows, temporal = Rows(holder), Temporal("another")
    assert (await held(rows, temporal).write(HEADER.write("mine"))).has_settled
    assert (temporal.asked, rows.holder) == ([], "mine")


async def test_a_continuation_takes_over_from_the_run_before_it_and_asks_nobody() -> None:
    rows, temporal = Rows("before"), Temporal("another")
    header = HEADER.model_copy(update={"continued_from": "before"})
    assert (await held(rows, temporal).write(header.write("mine"))).has_settled
    assert (temporal.asked, rows.holder) == ([], "mine")


async def test_the_current_run_takes_over_from_whoever_holds_the_wedding() -> None:
    rows, temporal = Rows("reset away"), Temporal("mine")
    assert (await held(rows, temporal).write(HEADER.write("mine", rolling_back="tx"))).has_settled
    assert (temporal.asked, rows.holder) == ([wedding_workflow_id("w")], "mine")
    assert [(write.takes_from, write.rolling_back) for write in rows.writes] == [("", "tx"), ("reset away", "tx")]


@pytest.mark.parametrize(
    "current", ["another", RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")], ids=["reset away", "gone"]
)
async def test_a_run_that_is_not_the_current_one_writes_nothing(current: Any) -> None:
    rows, temporal = Rows("another"), Temporal(current)
    assert await held(rows, temporal).write(HEADER.write("mine")) == Written(contested_by="another")
    assert (len(rows.writes), rows.holder) == (1, "another")


@pytest.mark.parametrize(
    "fault", [RPCError("away", RPCStatusCode.UNAVAILABLE, b""), RuntimeError("no connection")], ids=["rpc", "connect"]
)
async def test_while_temporal_does_not_say_who_is_current_nothing_is_taken_and_it_is_tried_again(
    fault: Exception,
) -> None:
    rows, temporal = Rows("another"), Temporal(fault)
    with pytest.raises(TemporalUnreachable) as caught:
        await held(rows, temporal).write(HEADER.write("mine"))
    assert rows.holder == "another"
    assert not to_application_error(caught.value).non_retryable


async def test_a_database_that_is_away_is_said_to_be() -> None:
    class Gone:
        async def write(self, write: ProjectionWrite) -> Written:
            raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        await HeldWriter(Gone(), Temporal("mine").provide).write(HEADER.write("mine"))  # type: ignore[arg-type]


def test_a_header_says_whose_write_it_is() -> None:
    header = HEADER.model_copy(update={"continued_from": "before"})
    assert header.write("mine", rolling_back="tx") == ProjectionWrite(
        organization_id="o", wedding_id="w", now=NOW, run_id="mine", takes_from="before", rolling_back="tx"
    )
