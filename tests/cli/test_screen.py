"""What is drawn on a terminal while a wedding moves: never taller than it, and whole at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from wedsync.cli.follow import Snapshot
from wedsync.cli.output import Output
from wedsync.cli.render import busiest, state_of, took, venue_time
from wedsync.cli.screen import Screen


@pytest.fixture
def terminal():
    """An output on a terminal of 30 lines, and what was written to it."""
    written = io.StringIO()
    output = Output()
    output._out = Console(file=written, force_terminal=True, width=140, height=30, highlight=False)
    return output, written


def test_a_long_plan_fits_while_it_moves_and_is_whole_at_the_end(terminal, step):
    output, written = terminal
    steps = [step(f"step-{number:02}", "booking.request", "generic", "succeeded") for number in range(60)]
    steps[50]["status"] = "running"
    due = step("balance", "payments.collect", "stripe", "scheduled", due_at="2027-06-12T14:00:00Z")
    snapshot = Snapshot(
        {"reference": "big", "ceremony": {"zone": "Asia/Tokyo"}, "steps": [*steps, due]},
        {"kind": "orchestrate", "status": "running"},
    )
    with Screen(output) as screen:
        screen.update(snapshot)
        screen._live.refresh()
        moving = written.getvalue()
    assert "step-50" in moving
    assert "more steps" in moving
    assert "balance" in moving
    assert moving.count("succeeded") < 30
    whole = written.getvalue()[len(moving) :]
    assert all(f"step-{number:02}" in whole for number in range(60))
    assert "Sat 2027-06-12 23:00 JST" in whole
    assert "big · orchestrate running" in whole


def test_what_moves_is_shown_first(step):
    steps = [step(f"s{number}", "sms.send", "twilio", "pending", started_at=None) for number in range(5)]
    steps[3]["status"] = "held"
    steps[1] |= {"status": "succeeded", "started_at": "2026-11-20T12:00:00Z"}
    assert [one["id"] for one in busiest(steps, 2)] == ["s1", "s3"]
    assert len(busiest(steps, 50)) == 5


def test_json_mode_draws_nothing(step, capsys):
    with Screen(Output(json_mode=True)) as screen:
        screen.update(Snapshot({"steps": [step("a", "sms.send", "twilio", "running")]}, {}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("compensation", "words"),
    [
        (None, "succeeded"),
        ({"status": "pending"}, "succeeded"),
        ({"status": "running"}, "undoing"),
        ({"status": "undone"}, "undone"),
        ({"status": "nothing_to_undo"}, "nothing to undo"),
    ],
)
def test_a_step_s_undo_takes_the_place_of_its_state(step, compensation, words):
    assert state_of(step("a", "sms.send", "twilio", "succeeded", compensation=compensation)) == words


def test_times_that_make_no_sense_are_left_out(step):
    assert venue_time("soon", "Europe/Rome") == ""
    assert venue_time(None, "Europe/Rome") == ""
    assert venue_time("2027-06-12T14:00:00+00:00", "Mars/Base") == "Sat 2027-06-12 14:00 UTC"
    assert took(step("a", "sms.send", "twilio", "running", started_at=None)) == ""
    assert took(step("a", "sms.send", "twilio", "running")) == ""
    long = step("a", "sms.send", "twilio", "succeeded", ended_at="2026-11-20T12:30:00+00:00")
    assert took(long) == "30 min"
