"""`wedsync status | watch`: weddings shown as the API knows them."""

from __future__ import annotations

import json

import pytest

WEDDING = "01JABCDEFGHJKMNPQRSTVWXYZ0"


def lines(ran):
    return [json.loads(line) for line in ran.out.splitlines()]


def test_all_weddings_are_listed_page_by_page(api, wedsync):
    for number in range(3):
        api.add_wedding(f"01JABCDEFGHJKMNPQRSTVWXYZ{number}", f"plan-{number}")
    ran = wedsync("status", "--json")
    assert ran.code == 0
    assert [one["reference"] for one in ran.json["data"]] == ["plan-0", "plan-1"]
    more = wedsync("status", "--cursor", ran.json["next_cursor"], "--json")
    assert [one["reference"] for one in more.json["data"]] == ["plan-2"]
    people = wedsync("status")
    assert "plan-1" in people.out
    assert "more: wedsync status --cursor 2" in people.out


def test_no_weddings_yet_is_said(api, wedsync):
    ran = wedsync("status")
    assert (ran.code, ran.out) == (0, "no weddings yet: start one with `wedsync run FILE`\n")


def test_one_wedding_is_shown_with_steps_agenda_and_compensations(api, wedsync, step):
    undone = {"status": "needs_attention", "attempts": 4, "detail": "call the florist"}
    steps = [
        step("flowers", "booking.request", "generic", "succeeded", compensation=undone),
        step("venue", "booking.request", "generic", "waiting"),
        step("cake", "booking.request", "generic", "held"),
        step("balance", "payments.collect", "stripe", "scheduled", due_at="2027-06-12T14:00:00Z", started_at=None),
        step("thank", "sms.send", None, "scheduled", started_at=None),
    ]
    api.add_wedding(steps=steps)
    api.add_transaction(WEDDING, "orchestrate", ["needs_attention"])
    ran = wedsync("status", "elopement")
    assert ran.code == 0
    for words in (
        "call the florist",
        "waits for the vendor's word",
        "waits for a decision",
        "Sat 2027-06-12 16:00 CEST",
        "when (Europe/Rome)",
        "some time after another step",
        "3/5",
        "orchestrate  needs_attention",
        "Temporal: http://temporal.test/",
    ):
        assert words in ran.out
    found = wedsync("status", WEDDING, "--json").json
    assert [one["id"] for one in found["steps"]] == ["flowers", "venue", "cake", "balance", "thank"]
    assert found["transaction"]["status"] == "needs_attention"


def test_a_wedding_without_transactions_is_shown(api, wedsync):
    api.add_wedding(status="planned")
    ran = wedsync("status", WEDDING, "--json")
    assert (ran.code, ran.json["transaction"]) == (0, None)
    assert "planned" in wedsync("status", WEDDING).out


def test_watch_prints_an_object_a_line_and_ends_with_the_transaction(api, wedsync):
    api.add_wedding()
    api.add_transaction(WEDDING, "orchestrate", ["running", "running", "completed"])
    api.events = [
        {"id": 1, "type": "step", "data": {"id": "deposit", "status": "running"}},
        {"id": 2, "type": "step", "data": {"id": "deposit", "status": "succeeded"}},
    ]
    ran = wedsync("watch", WEDDING, "--json")
    assert ran.code == 0
    said = lines(ran)
    assert [(one["id"], one["type"]) for one in said[:2]] == [(1, "step"), (2, "step")]
    assert said[1]["data"] == {"id": "deposit", "status": "succeeded"}
    assert (said[-1]["type"], said[-1]["data"]["transaction"]["status"]) == ("end", "completed")


def test_watch_goes_on_after_the_last_event_when_the_stream_breaks(api, wedsync):
    api.add_wedding()
    api.add_transaction(WEDDING, "orchestrate", ["waiting"])
    api.events = [{"id": 7, "type": "step", "data": {"id": "deposit", "status": "waiting"}}]
    ran = wedsync("watch", WEDDING, "--timeout", "1.2", "--json")
    assert ran.code == 0
    asked = api.asked("GET", ".*/events")
    assert len(asked) > 1
    assert "last-event-id" not in asked[0]["headers"]
    assert asked[1]["headers"]["last-event-id"] == "7"
    assert [one["id"] for one in lines(ran)] == [7, None]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("orchestrate", "rolled_back", 3),
        ("orchestrate", "held", 4),
        ("orchestrate", "needs_attention", 5),
        ("undo", "rolled_back", 0),
        ("undo", "completed", 0),
    ],
)
def test_watch_exits_by_the_newest_transaction(api, wedsync, kind, status, code):
    api.add_wedding()
    api.add_transaction(WEDDING, "orchestrate", ["completed"])
    api.add_transaction(WEDDING, kind, [status])
    ran = wedsync("watch", WEDDING)
    assert ran.code == code
    assert status.replace("_", " ") in ran.out


def test_watch_forever_ends_with_the_wedding(api, wedsync):
    wedding = api.add_wedding()
    api.add_transaction(WEDDING, "orchestrate", ["completed"])
    assert wedsync("watch", WEDDING, "--forever", "--timeout", "0.2").code == 0
    wedding["status"] = "ended"
    assert wedsync("watch", WEDDING, "--forever").code == 0
