"""One call of a step: what is sent, and what watchers see of it meanwhile and after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from wedsync.domain.errors import OutcomeUnknown, StoreUnavailable, TemporalUnreachable, VendorUnavailable
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.weddings.projection import ProjectionWrite, Written
from wedsync.domain.weddings.step import StepState
from wedsync.usecases.weddings.call_step import CallOutcome, StepCaller, VendorCall

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
CALL = Call(
    organization_id="o", wedding_id="w", transaction_id="t1", step_id="venue", vendor="generic", account="villa",
    action="booking.request", operation="book", idempotency_key="k", reference="r", inputs={"a": 1}, first_sent_at=NOW,
)  # fmt: skip
RUNNING = StepState(step_id="venue", status="running", transaction_id="t1", vendor="generic", attempts=1)
DONE = Effect(state="done", external_id="bk_1", facts={"reference": "R7"})


class Gateway:
    """Answers as it is told, when it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {"send": DONE, "find": None, "look": DONE}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def _answer(self, ask: str) -> Any:
        self.asked.append(ask)
        await self.may_answer.wait()
        answer = self.answers[ask]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send(self, call: Call, situation: Any) -> Effect:
        return await self._answer("send")  # type: ignore[no-any-return]

    async def find(self, call: Call, situation: Any) -> Effect | None:
        return await self._answer("find")  # type: ignore[no-any-return]

    async def inspect(self, call: Call, situation: Any) -> Effect:
        return await self._answer("look")  # type: ignore[no-any-return]


class Writer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[ProjectionWrite] = []
        self.fault: Exception | None = None
        self.has_written = asyncio.Event()

    async def write(self, write: ProjectionWrite) -> Written:
        if self.fault is not None:
            raise self.fault
        self.writes.append(write)
        self.has_written.set()
        return Written()

    def shown(self) -> list[tuple[str, str | None, int]]:
        return [(s.state.status, s.state.external_id, s.version) for write in self.writes for s in write.steps]


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def writer() -> Writer:
    return Writer()


Caller = Callable[..., Any]


@pytest.fixture
def call(gateway: Gateway, writer: Writer) -> Caller:
    async def make(run_id: str = "run", *, shown_after_seconds: float = 60, **wanted: Any) -> CallOutcome:
        caller = StepCaller(gateway, writer, shown_after_seconds)  # type: ignore[arg-type]
        given = {"call": CALL, "state": RUNNING, "last": True, "version": 20, "now": NOW, **wanted}
        return await caller.call(VendorCall.model_validate(given), run_id)

    return make


async def test_what_is_quick_is_shown_once_as_it_ended(gateway: Gateway, writer: Writer, call: Caller) -> None:
    assert await call() == CallOutcome(effect=DONE)
    assert writer.shown() == [("succeeded", "bk_1", 20)]
    (write,) = writer.writes
    assert [(r.object_id, r.step_id, r.transaction_id) for r in write.references] == [("bk_1", "venue", "t1")]
    assert (write.run_id, write.takes_from, write.answer) == ("run", "", None)


async def test_what_takes_long_is_shown_as_running_below_its_end(
    gateway: Gateway, writer: Writer, call: Caller
) -> None:
    gateway.may_answer.clear()
    making = asyncio.create_task(call(shown_after_seconds=0.001))
    await asyncio.wait_for(writer.has_written.wait(), 10)
    assert writer.shown() == [("running", None, 19)]
    gateway.may_answer.set()
    await making
    assert writer.shown() == [("running", None, 19), ("succeeded", "bk_1", 20)]


@pytest.mark.parametrize(("wanted", "seconds"), [({}, 0), ({"state": None}, 0.001)])
async def test_where_nothing_is_shown_nothing_runs_on(
    gateway: Gateway, writer: Writer, call: Caller, wanted: dict[str, Any], seconds: float
) -> None:
    gateway.answers["send"] = VendorUnavailable("down", vendor="generic")
    with pytest.raises(VendorUnavailable):
        await call(shown_after_seconds=seconds, **wanted)
    assert writer.writes == []


async def test_a_call_that_failed_shows_nothing_of_its_own(gateway: Gateway, writer: Writer, call: Caller) -> None:
    gateway.answers["send"] = VendorUnavailable("down", vendor="generic")
    with pytest.raises(VendorUnavailable):
        await call()
    assert writer.writes == []


@pytest.mark.parametrize(
    ("effect", "last", "status"),
    [
        (DONE, True, "succeeded"),
        (DONE.model_copy(update={"state": "waiting"}), True, "waiting"),
        (DONE, False, "running"),
    ],
)
async def test_a_step_is_shown_as_its_last_call_leaves_it(
    gateway: Gateway, writer: Writer, call: Caller, effect: Effect, last: bool, status: str
) -> None:
    gateway.answers["send"] = effect
    await call(last=last)
    assert writer.shown() == [(status, "bk_1", 20)]


async def test_another_run_sends_nothing_that_the_one_before_may_have_sent(
    gateway: Gateway, writer: Writer, call: Caller
) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        await call("other", held_by="run", shown_after_seconds=0.001)
    assert (caught.value.reason, caught.value.vendor) == ("another_run", "generic")
    assert (gateway.asked, writer.writes) == ([], [])


async def test_the_run_that_claimed_the_transaction_sends(gateway: Gateway, writer: Writer, call: Caller) -> None:
    await call("run", held_by="run")
    assert (gateway.asked, writer.writes[0].takes_from) == (["send"], "")


@pytest.mark.parametrize(
    ("intent", "found", "asked", "outcome"),
    [
        ("send", DONE, ["send"], CallOutcome(effect=DONE)),
        ("look", None, ["look"], CallOutcome(effect=DONE, found=True)),
        ("find", None, ["find"], CallOutcome(effect=None, found=True)),
        ("find", DONE, ["find"], CallOutcome(effect=DONE, found=True)),
        ("find_or_send", DONE, ["find"], CallOutcome(effect=DONE, found=True)),
        ("find_or_send", None, ["find", "send"], CallOutcome(effect=DONE)),
    ],
)
async def test_it_looks_before_it_sends_when_told_so(
    gateway: Gateway, call: Caller, intent: str, found: Effect | None, asked: list[str], outcome: CallOutcome
) -> None:
    gateway.answers["find"] = found
    assert await call(intent=intent) == outcome
    assert gateway.asked == asked


async def test_a_reads_answer_is_kept_when_it_is_asked_to_and_known(
    gateway: Gateway, writer: Writer, call: Caller
) -> None:
    await call(remembers=True)
    gateway.answers["send"] = Effect(state="waiting", facts={"x": 1})
    await call(remembers=True)
    assert [write.answer and write.answer.facts for write in writer.writes] == [{"reference": "R7"}, None]


@pytest.mark.parametrize("fault", [StoreUnavailable("gone"), TemporalUnreachable("gone")])
async def test_a_lost_write_for_watchers_loses_no_effect(writer: Writer, call: Caller, fault: Exception) -> None:
    writer.fault = fault
    assert await call() == CallOutcome(effect=DONE)


async def test_an_object_that_is_known_already_is_referred_to_as_well(writer: Writer, call: Caller) -> None:
    await call(call=CALL.model_copy(update={"facts": {"external_id": "bk_0"}}))
    assert [r.object_id for r in writer.writes[0].references] == ["bk_0", "bk_1"]
