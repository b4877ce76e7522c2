"""Logs: JSON, ids, no secret and no guest's data."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from wedsync.kit import logs
from wedsync.kit.settings import Settings

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Sets the logs up on a stream of the test's own; all that was logged."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level, configured = root.handlers, root.level, structlog.get_config()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.setup(Settings(), "worker")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = before
    root.setLevel(level)
    structlog.configure(**configured)


def test_a_log_is_one_json_object_with_the_ids_around_it(read: Read) -> None:
    with logs.bound(wedding_id="w1", transaction_id="t1", step_id=None):
        logs.get("wedsync.test").info("step_done", attempt=2, vendor="stripe")
    logs.get("wedsync.test").info("later")
    first, second = read()
    assert first["event"] == "step_done"
    assert (first["wedding_id"], first["transaction_id"], first["attempt"]) == ("w1", "t1", 2)
    assert (first["level"], first["logger"], first["program"]) == ("info", "wedsync.test", "worker")
    assert "step_id" not in first
    assert "wedding_id" not in second


@pytest.mark.parametrize(
    "key",
    [
        "email",
        "guest_email",
        "phone",
        "name",
        "firstName",
        "couple",
        "text",
        "body",
        "Authorization",
        "api_key",
        "client_secret",
        "webhookSecret",
        "access_token",
        "inputs",
        "headers",
        "password",
    ],
)
def test_secrets_and_guests_data_are_withheld_by_their_key(read: Read, key: str) -> None:
    logs.get("t").info("sent", **{key: "Amelie", "nested": [{key: "Amelie"}]})
    (entry,) = read()
    assert "Amelie" not in json.dumps(entry)
    assert entry[key] == logs.REDACTED


@pytest.mark.parametrize("key", ["vendor_name", "workflow_name", "task_queue_name", "key_id", "tokens_left", "textual"])
def test_what_names_no_person_is_kept(read: Read, key: str) -> None:
    logs.get("t").info("seen", **{key: "plain"})
    assert read()[0][key] == "plain"


@pytest.mark.parametrize(
    "said",
    [
        "mail amelie.noor+rsvp@example.org now",
        "call +44 7700 900123 soon",
        "Bearer abcdefghijklmnop",
        "key wsk_abcdefgh12",
        "postgresql://wedsync:hunter2hunter2@127.0.0.1/x",
        "sk_test_4eC39HqLyjWDarjt",
        "whsec_MfKQ9r8GKYqrTwjU",
    ],
)
def test_what_gives_itself_away_in_a_sentence_is_withheld(read: Read, said: str) -> None:
    logging.getLogger("library").warning("said: %s", said)
    try:
        raise ValueError(said)
    except ValueError:
        logs.get("t").exception("failed")
    entries = read()
    assert len(entries) == 2
    secret = max(said.replace("postgresql://wedsync:", "").split("@127")[0].split(), key=len)
    assert secret not in json.dumps(entries)
    assert logs.REDACTED in entries[0]["event"]
    assert logs.REDACTED in entries[1]["exception"]


def test_ids_times_and_versions_are_no_phone_numbers(read: Read) -> None:
    said = "tx 01J9Z3K2M4N5P6Q7R8S9T0V1W2 at 2026-06-20T15:00:00+01:00 took 12345678 ns in 1.2.3+20260620"
    logs.get("t").info(said)
    assert read()[0]["event"].startswith("tx 01J9Z3K2M4N5P6Q7R8S9T0V1W2 at 2026-06-20T15:00:00+01:00 took 12345678 ns")


def test_a_log_within_a_span_names_its_trace(read: Read) -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        logs.get("t").info("here")
    assert read()[0]["trace_id"] == f"{span.get_span_context().trace_id:032x}"


def test_odd_values_never_break_a_log(read: Read) -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    logs.get("t").info("odd", raw=b"\xff", loop=loop, thing=object(), many={1, 2}, nothing=None)
    entry = read()[0]
    assert entry["raw"] == logs.REDACTED
    assert entry["nothing"] is None


def test_the_console_format_is_for_people(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.setup(Settings(log_format="console"), "api")
    logs.get("t").info("hello", email="a@b.example")
    assert "hello" in stream.getvalue()
    assert "a@b.example" not in stream.getvalue()
