"""Changes of a standing wedding: what is asked of the API, and how the outcome becomes the exit code."""

from __future__ import annotations

import pytest

WEDDING = "01JABCDEFGHJKMNPQRSTVWXYZ0"
TX = "01JTX000000000000000000001"

OUTCOMES = [
    ("completed", 0),
    ("rolled_back", 3),
    ("cancelled", 3),
    ("held", 4),
    ("needs_attention", 5),
]
UNDO_OUTCOMES = [("completed", 0), ("rolled_back", 0), ("cancelled", 0), ("held", 4), ("needs_attention", 5)]
UNDOING = [
    (("undo", WEDDING, TX), "POST", f"/api/v1/weddings/{WEDDING}/transactions/{TX}/undo"),
    (("cancel", WEDDING, TX), "POST", f"/api/v1/weddings/{WEDDING}/transactions/{TX}/cancel"),
    (("cancel", WEDDING), "DELETE", f"/api/v1/weddings/{WEDDING}"),
    (("decide", WEDDING, "deposit", "rollback"), "POST", f"/api/v1/weddings/{WEDDING}/steps/deposit/decision"),
]
DOING = [
    (("shift", WEDDING, "--to", "2027-06-26T16:00"), f"/api/v1/weddings/{WEDDING}/transactions"),
    (("decide", WEDDING, "deposit", "retry"), f"/api/v1/weddings/{WEDDING}/steps/deposit/decision"),
]


@pytest.mark.parametrize(("argv", "method", "path"), UNDOING)
@pytest.mark.parametrize(("status", "code"), UNDO_OUTCOMES)
def test_what_undoes_exits_by_whether_all_was_undone(api, wedsync, argv, method, path, status, code):
    api.add_wedding()
    api.story = ["running", "rolling_back", status]
    ran = wedsync(*argv, "--json")
    assert ran.code == code
    assert len(api.asked(method, path)) == 1
    found = ran.json
    assert found["status"] == found["transaction"]["status"] == status
    assert found["wedding_id"] == WEDDING
    assert found["transaction_id"] == found["transaction"]["id"]
    assert found["temporal_url"].startswith("http://temporal.test/")


@pytest.mark.parametrize(("argv", "path"), DOING)
@pytest.mark.parametrize(("status", "code"), OUTCOMES)
def test_what_changes_exits_by_how_it_ended(api, wedsync, argv, path, status, code):
    api.add_wedding()
    api.story = ["running", status]
    ran = wedsync(*argv, "--json")
    assert ran.code == code
    assert ran.json["status"] == status
    assert len(api.asked("POST", path)) == 1


def test_shift_sends_the_wall_time_and_the_zone(api, wedsync):
    api.add_wedding()
    assert wedsync("shift", WEDDING, "--to", "2027-06-26T16:00", "--zone", "Asia/Tokyo").code == 0
    (request,) = api.asked("POST", ".*/transactions")
    assert request["json"] == {"kind": "timeline", "ceremony_at": "2027-06-26T16:00", "zone": "Asia/Tokyo"}
    assert request["headers"]["idempotency-key"].startswith("shift:")


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("--to", "2027-06-26T16:00+02:00"), "--to"),
        (("--to", "saturday"), "--to"),
        (("--to", "2027-06-26"), "--to"),
        (("--to", "2027-06-26T16:00", "--zone", "Mars/Base"), "--zone"),
    ],
)
def test_a_bad_time_or_zone_is_refused_before_anything_is_asked(api, wedsync, argv, field):
    ran = wedsync("shift", WEDDING, *argv, "--json")
    assert ran.code == 2
    assert ran.json["error"]["errors"][0]["field"] == field
    assert api.requests == []


def test_decide_sends_choice_and_vendor(api, wedsync):
    api.add_wedding()
    assert wedsync("decide", WEDDING, "deposit", "use", "--vendor", "paypal").code == 0
    (request,) = api.asked("POST", ".*/decision")
    assert request["json"] == {"choice": "use", "vendor": "paypal"}


@pytest.mark.parametrize("argv", [("use",), ("skip", "--vendor", "paypal"), ("perhaps",)])
def test_a_decision_that_makes_no_sense_is_refused(api, wedsync, argv):
    ran = wedsync("decide", WEDDING, "deposit", *argv, "--json")
    assert ran.code == 2
    assert ran.json["error"]["code"] in ("invalid_input", "usage")
    assert api.requests == []


def test_without_waiting_an_accepted_change_exits_0(api, wedsync):
    api.add_wedding()
    api.story = ["running"]
    ran = wedsync("undo", WEDDING, TX, "--no-wait", "--json")
    assert ran.code == 0
    assert ran.json["status"] == "running"
    assert api.asked("GET", ".*") == []


def test_what_still_waits_when_the_time_is_up_counts_as_accepted(api, wedsync):
    api.add_wedding()
    api.story = ["waiting"]
    ran = wedsync("decide", WEDDING, "deposit", "retry", "--timeout", "0.3", "--json")
    assert ran.code == 0
    assert ran.json["status"] == "waiting"


def with_error(api, code):
    poll = api.poll
    api.poll = lambda name: poll(name) | {"error": {"code": code, "detail": f"because {code}"}}


def test_an_undo_says_what_was_set_anew_since(api, wedsync):
    api.add_wedding()
    api.story = ["running", "rolled_back"]
    poll = api.poll
    api.poll = lambda name: poll(name) | {"superseded": ["venue.inputs"]}
    ran = wedsync("undo", WEDDING, TX)
    assert ran.code == 0
    assert "set anew since, and gone with it: venue.inputs" in ran.out.replace("\n", " ")


@pytest.mark.parametrize("argv", [("undo", WEDDING, TX), ("shift", WEDDING, "--to", "2027-06-26T16:00")])
def test_a_change_that_the_wedding_refuses_at_its_turn_is_a_conflict(api, wedsync, argv):
    api.add_wedding()
    api.story = ["running", "cancelled"]
    with_error(api, "superseded")
    ran = wedsync(*argv, "--json")
    assert ran.code == 6
    assert ran.json["error"] == {"code": "superseded", "detail": "because superseded", "errors": []}


def test_an_undo_that_was_itself_put_back_did_not_undo(api, wedsync):
    api.add_wedding()
    api.story = ["running", "rolled_back"]
    with_error(api, "vendor_rejected")
    ran = wedsync("undo", WEDDING, TX)
    assert ran.code == 3
    assert "undo: rolled back: because vendor_rejected" in ran.out


def test_an_undo_of_what_ran_says_so_and_exits_0(api, wedsync):
    api.add_wedding()
    api.story = ["running", "cancelled"]
    with_error(api, "cancelled")
    assert wedsync("cancel", WEDDING, TX).code == 0


def test_words_that_would_leave_their_place_in_the_path_are_quoted(api, wedsync):
    api.add_wedding()
    ran = wedsync("undo", WEDDING, "../../x?y", "--no-wait")
    assert ran.code == 6
    (request,) = api.asked("POST", ".*")
    assert request["query"] == {}


def test_the_plan_s_own_id_names_the_wedding(api, wedsync):
    for number in range(5):
        api.add_wedding(f"01JABCDEFGHJKMNPQRSTVWXYZ{number}", f"plan-{number}")
    ran = wedsync("undo", "plan-4", TX, "--json")
    assert ran.code == 0
    assert ran.json["wedding_id"] == "01JABCDEFGHJKMNPQRSTVWXYZ4"


@pytest.mark.parametrize("argv", [("undo", "nobody", TX), ("cancel", "nobody"), ("repair", WEDDING), ("status", "x")])
def test_an_unknown_wedding_exits_6(api, wedsync, argv):
    api.refuse("POST", ".*/repair", 404, "not_found")
    ran = wedsync(*argv, "--json")
    assert ran.code == 6
    assert ran.json["error"]["code"] == "not_found"


def test_a_change_in_conflict_exits_6_and_says_why(api, wedsync):
    api.add_wedding()
    api.refuse("POST", ".*/undo", 409, "transaction_running")
    ran = wedsync("undo", WEDDING, TX)
    assert ran.code == 6
    assert ran.err == "wedsync: because transaction_running\n"
    assert ran.out == ""


def test_repair_says_that_it_is_done(api, wedsync):
    api.add_wedding()
    ran = wedsync("repair", WEDDING, "--json")
    assert ran.code == 0
    assert ran.json == {"wedding_id": WEDDING, "repaired": True}
    assert len(api.asked("POST", f"/api/v1/weddings/{WEDDING}/repair")) == 1


def test_people_read_what_was_undone(api, wedsync, step):
    undone = {"status": "undone", "attempts": 1, "detail": "refund re_1 created"}
    api.steps = lambda status: [step("deposit", "payments.collect", "stripe", "succeeded", compensation=undone)]
    api.add_wedding()
    api.story = ["rolling_back", "rolled_back"]
    ran = wedsync("undo", WEDDING, TX)
    assert ran.code == 0
    assert "compensations" in ran.out
    assert "refund re_1 created" in ran.out
    assert "undo: rolled back" in ran.out
    assert "http://temporal.test/" in ran.out
