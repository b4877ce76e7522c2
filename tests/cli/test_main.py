"""What holds for every command: help, usage, where the API is, what is unreachable, how failures look."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from wedsync.cli import main, output
from wedsync.domain import errors as family

WEDDING = "01JABCDEFGHJKMNPQRSTVWXYZ0"
VERBS = (
    "up", "down", "demo", "run", "status", "watch", "undo", "cancel", "shift", "decide", "repair", "rehearse",
    "worker", "api", "sandbox", "migrate", "schema", "vendors",
)  # fmt: skip
ASKING = (
    ("status",),
    ("status", WEDDING),
    ("watch", WEDDING),
    ("undo", WEDDING, "tx"),
    ("cancel", WEDDING),
    ("shift", WEDDING, "--to", "2027-06-26T16:00"),
    ("decide", WEDDING, "deposit", "skip"),
    ("repair", WEDDING),
)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "wedsync", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("verb", [*VERBS, "plan validate", "plan graph"])
def test_every_verb_explains_itself(wedsync, verb):
    ran = wedsync(*verb.split(), "--help")
    assert ran.code == 0
    assert "Usage" in ran.out


def test_help_names_every_verb_and_the_exit_codes(wedsync):
    ran = wedsync("--help")
    assert ran.code == 0
    assert all(f" {verb} " in ran.out for verb in (*VERBS, "plan"))
    assert "7 unreachable" in ran.out


def test_help_loads_neither_the_client_nor_the_engine() -> None:
    heavy = "('httpx', 'temporalio', 'pydantic', 'yaml')"
    code = f"import sys, wedsync.cli.main; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("argv", [("undo",), ("status", "--colour"), ("marry",), ("status", "--limit", "many")])
def test_a_usage_error_exits_2(wedsync, argv):
    ran = wedsync(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert "Error" in ran.err
    in_json = wedsync(*argv, "--json")
    assert in_json.code == 2
    assert set(in_json.json["error"]) == {"code", "detail", "errors"}
    assert in_json.json["error"]["code"] == "usage"


@pytest.mark.parametrize("argv", ASKING)
def test_without_a_stack_every_question_exits_7(nowhere, wedsync, argv):
    ran = wedsync(*argv, "--json")
    assert ran.code == 7
    assert ran.json["error"]["code"] == "unreachable"
    assert "wedsync up" in ran.json["error"]["detail"]


@pytest.mark.parametrize("argv", ASKING)
def test_an_api_that_does_not_answer_exits_7(nowhere, wedsync, argv, free_port, monkeypatch):
    monkeypatch.setenv("WEDSYNC_API_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("WEDSYNC_API_KEY", "wk_test")
    ran = wedsync(*argv, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (7, "unreachable")


def test_the_local_stack_s_file_says_where_the_api_is(api, wedsync, monkeypatch, tmp_path):
    monkeypatch.delenv("WEDSYNC_API_URL")
    monkeypatch.delenv("WEDSYNC_API_KEY")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"api_url": api.url, "api_key": "wk_test"}))
    assert wedsync("status").code == 0
    (folder / "run.json").write_text("{")
    assert wedsync("status").code == 7


def test_the_local_stack_s_key_goes_nowhere_else(api, wedsync, monkeypatch, tmp_path):
    monkeypatch.delenv("WEDSYNC_API_KEY")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"api_url": "http://127.0.0.1:1", "api_key": "wk_test"}))
    ran = wedsync("status", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "api_key_missing")
    assert api.requests == []


def test_a_wrong_key_is_bad_input(api, wedsync, monkeypatch):
    monkeypatch.setenv("WEDSYNC_API_KEY", "wk_wrong")
    ran = wedsync("status", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "not_authorized")


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 6), (409, 6), (422, 2), (429, 7), (500, 1), (503, 7)])
def test_the_api_s_refusals_become_exit_codes(api, wedsync, status, code):
    api.refuse("GET", "/api/v1/weddings", status, "some_code")
    ran = wedsync("status", "--json")
    assert ran.code == code
    assert ran.json["error"] == {"code": "some_code", "detail": "because some_code", "errors": []}


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (family.InvalidInput("wrong", field="a.b"), "invalid_input", 2),
        (family.NotFound("gone"), "not_found", 6),
        (family.Conflict("busy"), "conflict", 6),
        (family.StoreUnavailable("down"), "store_unavailable", 7),
        (family.TemporalUnreachable("down"), "temporal_unreachable", 7),
        (RuntimeError("odd"), "internal", 1),
    ],
)
def test_each_error_of_the_family_has_its_exit_code(error, code, exit_code):
    found = main.translate(error)
    assert (found.code, found.exit_code) == (code, exit_code)
    assert [place["field"] for place in found.errors] == (["a.b"] if code == "invalid_input" else [])


def test_wrong_settings_are_named(nowhere, wedsync, monkeypatch):
    monkeypatch.setenv("WEDSYNC_API_PORT", "many")
    ran = wedsync("vendors", "--json")
    assert ran.code == 2
    assert ran.json["error"]["errors"][0]["field"] == "WEDSYNC_API_PORT"


def test_default_secrets_are_refused_outside_local(nowhere, wedsync, monkeypatch):
    monkeypatch.setenv("WEDSYNC_ENVIRONMENT", "production")
    ran = wedsync("vendors", "--json")
    assert ran.code == 2
    assert "WEDSYNC_API_KEY_PEPPER" in ran.json["error"]["errors"][0]["detail"]


def test_interrupted_exits_130(nowhere, wedsync, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wedsync.cli.weddings.locate", interrupt)
    assert wedsync("status").code == output.INTERRUPTED


def test_json_may_stand_before_the_verb(nowhere, wedsync):
    assert wedsync("--json", "status").json["error"]["code"] == "unreachable"


def test_the_version_is_said(wedsync):
    assert set(wedsync("--json", "--version").json) == {"version"}
    assert wedsync("--version").out.startswith("wedsync ")


def test_as_a_program_it_writes_json_on_stdout_and_exits_by_outcome(tmp_path, plan_file):
    environment = {"WEDSYNC_STATE_DIR": str(tmp_path / "none"), "WEDSYNC_API_URL": "", "WEDSYNC_API_KEY": ""}
    gone = program("status", "--json", **environment)
    assert gone.returncode == 7
    assert json.loads(gone.stdout)["error"]["code"] == "unreachable"
    good = program("plan", "validate", str(plan_file), "--json", **environment)
    assert good.returncode == 0
    assert json.loads(good.stdout)["valid"] is True
    assert good.stderr == ""
    assert program("plan", "validate", str(tmp_path / "missing.yaml"), **environment).returncode == 2
