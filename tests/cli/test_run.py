"""`wedsync run`: a good plan is handed in once, a wrong one never, and the end becomes the exit code."""

from __future__ import annotations

import pytest


def test_a_plan_is_handed_in_and_started(api, wedsync, plan_file):
    api.story = ["running"]
    ran = wedsync("run", plan_file, "--json")
    assert ran.code == 0
    (created,) = api.asked("POST", "/api/v1/weddings")
    (started,) = api.asked("POST", "/api/v1/weddings/[^/]+/transactions")
    assert created["json"]["wedding"]["id"] == "elopement"
    assert [step["id"] for step in created["json"]["steps"]] == ["book-venue", "deposit", "tell"]
    assert started["json"] == {"kind": "orchestrate"}
    found = ran.json
    assert found["status"] == "running"
    assert found["wedding_id"] in api.weddings
    assert found["transaction_id"] in api.transactions
    assert found["temporal_url"] == f"http://temporal.test/{found['transaction_id']}"


def test_the_same_file_again_doubles_nothing(api, wedsync, plan_file):
    first, second = wedsync("run", plan_file, "--json"), wedsync("run", plan_file, "--json")
    assert (first.code, second.code) == (0, 0)
    assert first.json == second.json
    assert (len(api.weddings), len(api.transactions)) == (1, 1)


def test_another_plan_with_the_same_id_is_a_conflict(api, wedsync, plan_file):
    assert wedsync("run", plan_file).code == 0
    plan_file.write_text(plan_file.read_text().replace('"500.00"', '"600.00"'))
    ran = wedsync("run", plan_file)
    assert ran.code == 6
    assert "wedsync status elopement" in ran.err
    assert len(api.transactions) == 1


def test_a_wrong_plan_starts_nothing_and_names_file_line_and_field(api, wedsync, plan_file):
    text = plan_file.read_text().replace("needs: [deposit]", "needs: [depositt]")
    plan_file.write_text(text)
    line = text[: text.index("depositt")].count("\n") + 1
    ran = wedsync("run", plan_file, "--json")
    assert ran.code == 2
    error = ran.json["error"]
    assert error["code"] == "invalid_plan"
    (place,) = error["errors"]
    assert set(place) == {"file", "line", "field", "code", "detail"}
    assert (place["file"], place["line"], place["field"]) == (str(plan_file), line, "steps[2].needs[0]")
    assert api.requests == []


@pytest.mark.parametrize(
    ("status", "code"), [("completed", 0), ("rolled_back", 3), ("cancelled", 3), ("held", 4), ("needs_attention", 5)]
)
def test_watched_it_exits_by_how_it_ended(api, wedsync, plan_file, status, code):
    api.story = ["running", "waiting", status]
    ran = wedsync("run", plan_file, "--watch", "--json")
    assert ran.code == code
    assert ran.json["status"] == status


def test_watched_it_shows_each_step_and_the_agenda_to_people(api, wedsync, plan_file, step):
    def steps(status):
        done = "succeeded" if status == "completed" else "running"
        return [
            step("deposit", "payments.collect", "paypal", done, fallback_used=True),
            step("balance", "payments.collect", "stripe", "scheduled", due_at="2027-06-12T14:00:00+00:00"),
            step("cake", "booking.request", "generic", "failed", error={"code": "refused", "detail": "fully booked"}),
        ]

    api.steps = steps
    api.story = ["running", "completed"]
    ran = wedsync("run", plan_file, "--watch")
    assert ran.code == 0
    assert "paypal (fallback)" in ran.out
    assert "fully booked" in ran.out
    assert "1.0 s" in ran.out
    assert "Sat 2027-06-12 16:00 CEST" in ran.out
    assert "run: completed" in ran.out


def test_what_waits_longer_than_we_watch_is_accepted(api, wedsync, plan_file):
    api.story = ["waiting"]
    ran = wedsync("run", plan_file, "--watch", "--timeout", "0.2", "--json")
    assert (ran.code, ran.json["status"]) == (0, "waiting")


def test_gaps_are_named(api, wedsync, plan_file, monkeypatch):
    poll = api.poll
    monkeypatch.setattr(api, "poll", lambda name: poll(name) | {"gaps": ["cake"]})
    ran = wedsync("run", plan_file, "--watch")
    assert ran.code == 0
    assert "completed with gaps: cake" in ran.out


def test_a_short_outage_while_watching_is_waited_out(api, wedsync, plan_file):
    api.story = ["running", "running", "completed"]
    api.refuse("GET", "/api/v1/weddings/[^/]+/transactions/.*", 503, "unavailable", times=0)
    api.on_orchestrate = lambda stub, wedding: None
    assert wedsync("run", plan_file).code == 0
    (transaction_id,) = api.transactions
    (wedding_id,) = api.weddings
    polls = []
    poll = api.poll

    def fail_once(name):
        polls.append(name)
        if len(polls) == 1:
            api.refuse("GET", "/api/v1/weddings/[^/]+/transactions/.*", 503, "unavailable", times=1)
        return poll(name)

    api.poll = fail_once
    ran = wedsync("watch", wedding_id, "--json")
    assert ran.code == 0
    assert transaction_id in ran.out
    assert len(polls) > 1


def test_the_api_s_own_word_on_a_plan_is_passed_on(api, wedsync, plan_file):
    errors = [{"file": "", "line": 3, "field": "wedding.id", "code": "reserved", "detail": "that id is reserved"}]
    api.refuse("POST", "/api/v1/weddings", 422, "invalid_plan", errors=errors)
    ran = wedsync("run", plan_file, "--json")
    assert ran.code == 2
    assert ran.json["error"]["errors"] == errors


def test_an_answer_without_a_transaction_is_an_internal_error(api, wedsync, plan_file):
    api.refuse("POST", "/api/v1/weddings/[^/]+/transactions", 202, "odd")
    ran = wedsync("run", plan_file, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "internal")
