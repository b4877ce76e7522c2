"""`wedsync demo`: three weddings are played, and each end is checked against what it should be."""

from __future__ import annotations

import json

import pytest

TITLES = (
    "a typical wedding, all well",
    "the same wedding, the first payment vendor is down",
    "the venue refuses",
)


@pytest.fixture
def stage(api, step, tmp_path, monkeypatch):
    """A running stack whose three weddings go as they should, save for what a test spoils."""

    class Stage:
        spoil = ""

        def set_scene(self, stub, wedding_id):
            reference = stub.weddings[wedding_id]["reference"]
            number = int(reference[-1])
            self.number = number
            undone = {"status": "undone", "attempts": 1, "detail": "gone"}
            down = "stripe" in stub.faults
            if down:
                stub.trip("stripe")
            cut_off = stub.circuits.get("stripe", {}).get("state") == "open"
            vendor = "paypal" if cut_off else "stripe"
            venue = step("venue", "booking.request", "generic", "succeeded")
            paid = step("deposit", "payments.collect", vendor, "succeeded", fallback_used=cut_off)
            told = step("tell", "sms.send", "twilio", "succeeded")
            steps = [venue, paid, told]
            status = "completed"
            entries = {"generic": ["venue"], vendor: ["deposit"], "twilio": ["tell"]}
            if number == 3:
                status = "rolled_back"
                nothing = {"status": "nothing_to_undo", "attempts": 1, "detail": ""}
                steps = [
                    venue | {"compensation": undone},
                    told | {"compensation": nothing},
                    step("other", "booking.request", "generic", "failed"),
                ]
                entries = {"twilio": ["tell"]}
            if self.spoil == f"{number} status":
                status = "needs_attention"
            if self.spoil == f"{number} fallback":
                paid["fallback_used"] = not paid["fallback_used"]
            if self.spoil == f"{number} failed":
                steps.append(step("cake", "booking.request", "generic", "failed"))
            if self.spoil == f"{number} unpaid":
                steps.remove(paid)
            if self.spoil == f"{number} twice":
                entries["stripe"] = ["deposit"]
                entries["paypal"] = ["deposit"]
            if self.spoil == f"{number} left":
                entries["generic"] = ["venue"]
            if self.spoil == f"{number} silent":
                steps[0] = venue
            stub.steps = lambda _: steps
            stub.story = ["running", status]
            stub.ledgers = {
                name: [
                    {"wedding_id": wedding_id, "step_id": one, "state": "active", "operation": "x"}
                    for one in entries.get(name, [])
                ]
                for name in ("stripe", "paypal", "generic", "twilio")
            }

    monkeypatch.setattr("wedsync.cli.demo.KNOWN_SECONDS", 0)
    made = Stage()
    api.on_orchestrate = made.set_scene
    folder = tmp_path / "state"
    folder.mkdir()
    run = {"api_url": api.url, "api_key": "wk_test", "sandbox_url": api.url, "temporal_ui_url": "http://ui.test"}
    (folder / "run.json").write_text(json.dumps(run))
    return made


def test_three_weddings_end_as_they_should(api, stage, wedsync):
    ran = wedsync("demo", "--json")
    assert ran.code == 0
    found = ran.json
    assert found["ok"] is True
    assert [scene["title"] for scene in found["scenes"]] == list(TITLES)
    assert all(scene["temporal_url"].startswith("http://temporal.test/") for scene in found["scenes"])
    assert {check["ok"] for scene in found["scenes"] for check in scene["checks"]} == {True}
    (fault,) = api.asked("PUT", "/_sandbox/faults/stripe")
    assert fault["json"] == {"mode": "down", "wedding_id": found["scenes"][1]["wedding_id"]}
    assert api.faults == {}
    references = [one["reference"] for one in api.weddings.values()]
    assert len(set(references)) == 3


def test_people_read_what_was_expected_and_seen(api, stage, wedsync):
    ran = wedsync("demo")
    assert ran.code == 0
    assert all(f"{number}. {title}" in ran.out for number, title in enumerate(TITLES, start=1))
    assert "deposit: 1 at paypal" in ran.out
    assert "stripe is down" in ran.out
    assert ran.out.count("Temporal: http://temporal.test/") == 3
    assert "3 of 3 weddings ended as they should" in ran.out
    assert "WRONG" not in ran.out


def test_played_again_the_weddings_are_new(api, stage, wedsync):
    assert (wedsync("demo").code, wedsync("demo").code) == (0, 0)
    assert len(api.weddings) == 6


def test_a_vendor_that_the_demo_broke_or_found_cut_off_is_used_again(api, stage, wedsync):
    api.trip("stripe", state="ramping")
    api.trip("twilio")
    assert wedsync("demo").code == 0
    states = {name: (one["state"], one["forced"]) for name, one in api.circuits.items()}
    assert states["stripe"] == states["twilio"] == ("closed", None)
    assert wedsync("demo").code == 0


@pytest.mark.parametrize("by_hand", [{"forced": "open"}, {"held": True}])
def test_what_a_person_cut_off_stays_so(api, stage, wedsync, by_hand):
    api.trip("twilio", **by_hand)
    assert wedsync("demo").code == 0
    assert api.circuits["twilio"]["state"] == "open"
    assert api.asked("PUT", "/api/v1/services/twilio/circuit") == []


@pytest.mark.parametrize(
    "spoil",
    [
        "1 status", "1 fallback", "1 failed", "1 unpaid", "1 twice",
        "2 status", "2 fallback", "2 unpaid", "2 twice",
        "3 status", "3 left", "3 silent",
    ],
)  # fmt: skip
def test_anything_else_than_expected_exits_1_and_says_so(api, stage, wedsync, spoil):
    stage.spoil = spoil
    ran = wedsync("demo", "--json")
    assert ran.code == 1
    assert ran.json["ok"] is False
    bad = [number for number, scene in enumerate(ran.json["scenes"], start=1) if not scene["ok"]]
    assert bad == [int(spoil[0])]


def test_a_wrong_end_comes_with_its_reason(api, stage, wedsync):
    stage.spoil = "1 status"
    poll = api.poll
    api.poll = lambda name: poll(name) | {"error": {"code": "refused", "detail": "catering: fully booked"}}
    ran = wedsync("demo")
    assert ran.code == 1
    assert "seen: needs attention (catering: fully booked)" in ran.out


def test_a_fault_is_taken_away_even_when_the_scene_breaks(api, stage, wedsync):
    api.refuse("GET", "/_sandbox/ledger/.*", 500, "broken")
    ran = wedsync("demo", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "sandbox")
    assert api.faults == {}


def test_without_the_examples_the_demo_says_where_to_run_it(api, stage, wedsync, monkeypatch, tmp_path):
    monkeypatch.setattr("wedsync.cli.demo_scenes.__file__", str(tmp_path / "a" / "b" / "c.py"))
    ran = wedsync("demo", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "examples_missing")
