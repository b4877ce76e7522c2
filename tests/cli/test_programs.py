"""`wedsync vendors | migrate | up | down`: what belongs to the programs themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import pytest


def test_the_vendors_are_listed_with_what_they_can_do(nowhere, wedsync, monkeypatch):
    monkeypatch.setenv("WEDSYNC_VENDORS__STRIPE__API_KEY", "sk_test")
    ran = wedsync("vendors", "--json")
    assert ran.code == 0
    found = {one["name"]: one for one in ran.json["data"]}
    assert {"stripe", "twilio", "generic"} <= set(found)
    assert found["stripe"]["configured"] is True
    assert found["twilio"]["configured"] is False
    (collect,) = [one for one in found["stripe"]["actions"] if one["name"] == "payments.collect"]
    assert collect["undo"] == "exact"
    assert set(collect["on_unknown"].values()) <= {"replay", "find", "unsafe"}
    assert "sk_test" not in ran.out
    people = wedsync("vendors")
    assert people.code == 0
    assert "payments.collect" in people.out


def test_migrating_nothing_exits_2(nowhere, wedsync, monkeypatch):
    monkeypatch.delenv("WEDSYNC_DATABASE_URL", raising=False)
    monkeypatch.delenv("WEDSYNC_DATABASE_OWNER_URL", raising=False)
    ran = wedsync("migrate", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "database_url_missing")


@pytest.mark.parametrize("argv", [("migrate",), ("migrate", "--down", "base")])
def test_a_database_that_does_not_answer_exits_7(nowhere, wedsync, monkeypatch, argv):
    monkeypatch.setenv("WEDSYNC_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    ran = wedsync(*argv, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (7, "store_unavailable")
    assert "secret" not in ran.out + ran.err


def test_the_sandbox_runs_in_the_local_environment_only(nowhere, wedsync, monkeypatch):
    for name in ("API_KEY_PEPPER", "LINK_SECRET"):
        monkeypatch.setenv(f"WEDSYNC_{name}", "not the default")
    monkeypatch.setenv("WEDSYNC_CODEC_KEYS", f"k1:{'ab' * 32}")
    monkeypatch.setenv("WEDSYNC_ENVIRONMENT", "staging")
    ran = wedsync("sandbox")
    assert ran.code == 2
    assert "WEDSYNC_ENVIRONMENT=local only" in ran.err


def test_the_sandbox_says_where_it_is_and_ends_when_told(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-m", "wedsync", "sandbox", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "WEDSYNC_STATE_DIR": str(tmp_path)},
    )
    with program:
        assert program.stdout is not None
        url = program.stdout.readline().removeprefix("sandbox: ").strip()
        with urllib.request.urlopen(f"{url}/_sandbox/health", timeout=10) as answer:  # noqa: S310 - our own
            assert answer.status == 200
        program.terminate()
        assert program.wait(20) == 0


def test_migrating_says_the_revision_and_what_became_of_temporal(nowhere, wedsync, monkeypatch, fresh_database_urls):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    ran = wedsync("migrate", "--json")
    assert ran.code == 0
    assert ran.json["revision"]
    assert ran.json["temporal"] == "unreachable, not provisioned"
    assert wedsync("migrate", "--down", "base", "--json").json == {"revision": "base", "temporal": None}
    assert wedsync("migrate", "--json").json["revision"] == ran.json["revision"]


def test_migrating_provisions_the_namespace(nowhere, wedsync, monkeypatch, fresh_database_urls, temporal_server):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    ran = wedsync("migrate", "--json")
    assert ran.code == 0
    assert ran.json["temporal"].startswith("provisioned, ")


def test_down_with_nothing_running_is_no_failure(nowhere, wedsync):
    ran = wedsync("down", "--json")
    assert (ran.code, ran.json) == (0, {"stopped": False})
    assert wedsync("down").out == "nothing was running\n"
