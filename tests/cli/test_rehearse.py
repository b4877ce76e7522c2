"""`wedsync rehearse`: everything is carried out at once, and the timetable says when it would be."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from wedsync.cli import output, rehearse
from wedsync.cli.plans import load

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def plan(plan_file):
    """A plan with a step two days before the ceremony and one a week after the deposit."""
    text = plan_file.read_text().replace("  - id: tell\n", "  - id: tell\n    at: ceremony - 48h\n")
    text += """\
  - id: thank
    action: sms.send
    service: news
    at: deposit + 7d
    inputs: {to: ada, text: Thanks}
"""
    plan_file.write_text(text)
    return load(str(plan_file))


def test_the_timetable_says_when_each_step_would_be_due(plan):
    due = rehearse.timetable(plan, NOW)
    assert due["book-venue"] == due["deposit"] == NOW
    assert due["thank"] == datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    assert due["tell"] == datetime(2027, 6, 17, 14, 0, tzinfo=UTC)


def test_without_times_the_order_stays(plan):
    steps = {step.id: step for step in rehearse.everything_now(plan).steps}
    assert {step.at for step in steps.values()} == {None}
    assert steps["thank"].needs == ("deposit",)
    assert steps["tell"].needs == ("deposit",)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("rolled_back", 3), ("held", 4)])
def test_it_is_played_and_reported_by_its_end(api, plan, step, capsys, status, code):
    api.steps = lambda _: [step("deposit", "payments.collect", "stripe", "succeeded")]
    api.story = ["running", status]
    due = rehearse.timetable(plan, NOW)
    run = {"api_url": api.url, "api_key": "wk_test"}
    output.begin(["--json"])
    snapshot = asyncio.run(rehearse.play(run, rehearse.everything_now(plan), 5))
    assert rehearse.report(plan, due, snapshot) == code
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == status
    rows = {row["id"]: row for row in found["steps"]}
    assert rows["deposit"]["outcome"] == "succeeded"
    assert rows["tell"]["due_at"] == "2027-06-17T14:00:00+00:00"
    assert list(rows)[-1] == "tell"
    output.begin([])
    assert rehearse.report(plan, due, snapshot) == code
    said = capsys.readouterr().out
    assert "Thu 2027-06-17 16:00 CEST" in said
    assert f"rehearsal: {status.replace('_', ' ')}" in said


def test_a_wrong_plan_is_not_rehearsed(nowhere, wedsync, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\n")
    assert wedsync("rehearse", file).code == 2
