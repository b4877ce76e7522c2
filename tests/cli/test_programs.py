"""`wedsync vendors | migrate | up | down`: what belongs to the programs themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from wedsync.kit import temporal
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.store.db import migrate


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


@contextlib.contextmanager
def running(tmp_path: Path, *argv: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program of its own process; ended by SIGTERM, which it must take well."""
    program = subprocess.Popen(
        [sys.executable, "-m", "wedsync", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "WEDSYNC_STATE_DIR": str(tmp_path), **environment},
    )
    with program:
        yield program
        program.terminate()
        assert program.wait(30) == 0


def _answers(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
        return int(answer.status)


def test_the_sandbox_says_where_it_is_and_ends_when_told(tmp_path):
    with running(tmp_path, "sandbox", "--port", "0") as program:
        url = program.stdout.readline().removeprefix("sandbox: ").strip()
        assert _answers(f"{url}/_sandbox/health") == 200


def test_the_sandbox_says_where_it_is_as_one_line_of_json(tmp_path):
    with running(tmp_path, "sandbox", "--port", "0", "--json") as program:
        said = json.loads(program.stdout.readline())
        assert list(said) == ["sandbox_url"]
        assert _answers(f"{said['sandbox_url']}/_sandbox/health") == 200


def test_the_api_says_where_it_is_as_one_line_of_json(tmp_path, database_url):
    environment = {"WEDSYNC_DATABASE_URL": database_url, "WEDSYNC_API_PORT": "0", "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    with running(tmp_path, "api", "--json", **environment) as program:
        said = json.loads(program.stdout.readline())
        assert list(said) == ["api_url"]
        assert _answers(f"{said['api_url']}/readyz") == 200


def test_the_worker_says_what_it_serves_as_one_line_of_json(tmp_path, database_url, temporal_server):
    environment = {
        "WEDSYNC_DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WEDSYNC_WORKER_QUEUES": "records",
        "WEDSYNC_HEALTH_PROBES": "false",
    }
    with running(tmp_path, "worker", "--json", **environment) as program:
        assert json.loads(program.stdout.readline()) == {"queues": ["records"]}


@pytest.mark.parametrize("program", ["api", "worker"])
@pytest.mark.parametrize(("url", "code"), [("", "database_url_missing"), ("mysql://a@b/c", "invalid_settings")])
def test_a_program_without_a_database_exits_2(nowhere, wedsync, monkeypatch, program, url, code):
    monkeypatch.setenv("WEDSYNC_DATABASE_URL", url)
    ran = wedsync(program, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, code)


def test_a_program_that_can_not_listen_does_not_exit_as_if_a_wedding_was_rolled_back(tmp_path, database_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = {
            **os.environ,
            "WEDSYNC_STATE_DIR": str(tmp_path),
            "WEDSYNC_DATABASE_URL": database_url,
            "WEDSYNC_API_PORT": port,
            "WEDSYNC_SANDBOX_PORT": port,
            "TEMPORAL_ADDRESS": "127.0.0.1:1",
        }
        for program, code, word in (("api", 1, "not_started"), ("sandbox", 6, "port_taken")):
            argv = [sys.executable, "-m", "wedsync", program, "--json"]
            ran = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=60)
            assert (ran.returncode, json.loads(ran.stdout)["error"]["code"]) == (code, word)


def test_migrating_with_no_temporal_named_says_the_revision_and_that_nothing_was_provisioned(
    nowhere, wedsync, monkeypatch, fresh_database_urls
):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    monkeypatch.setattr(temporal, "DEFAULT_ADDRESS", "127.0.0.1:1")
    ran = wedsync("migrate", "--json")
    assert ran.code == 0
    assert ran.json == {"revision": migrate.newest(), "temporal": "none configured, not provisioned"}
    assert wedsync("migrate", "--down", "base", "--json").json == {"revision": "base", "temporal": None}
    assert wedsync("migrate", "--json").json["revision"] == ran.json["revision"]


def test_a_temporal_server_that_was_named_and_does_not_answer_exits_7(
    nowhere, wedsync, monkeypatch, fresh_database_urls
):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    ran = wedsync("migrate", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (7, "temporal_unreachable")
    assert "127.0.0.1:1" in ran.json["error"]["detail"]


@pytest.mark.parametrize("revision", ["NOSUCH", "9999", "+1"])
def test_going_down_to_a_revision_that_is_none_exits_2(nowhere, wedsync, monkeypatch, fresh_database_urls, revision):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    ran = wedsync("migrate", "--down", revision, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "invalid_input")
    assert [error["field"] for error in ran.json["error"]["errors"]] == ["revision"]
    assert asyncio.run(migrate.current(fresh_database_urls.owner)) == migrate.newest()


def test_an_empty_password_of_the_application_exits_2_before_anything_is_done(
    nowhere, wedsync, monkeypatch, fresh_database_urls
):
    monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", fresh_database_urls.owner)
    assert wedsync("migrate", "--down", "base").code == 0
    monkeypatch.setenv("WEDSYNC_DATABASE_URL", "postgresql://wedsync_app:@127.0.0.1:1/wedsync")
    ran = wedsync("migrate", "--json")
    assert (ran.code, ran.json["error"]["errors"][0]["field"]) == (2, "WEDSYNC_DATABASE_URL")
    assert asyncio.run(migrate.current(fresh_database_urls.owner)) is None


def test_migrating_a_new_server_gives_the_application_a_login_that_owns_nothing(
    nowhere, wedsync, monkeypatch, tmp_path, temporal_server
):
    server = EmbeddedPostgres(tmp_path / "postgres", hasty=True)
    try:
        server.start()
        monkeypatch.setenv("WEDSYNC_DATABASE_OWNER_URL", server.url(owner=True))
        monkeypatch.setenv("WEDSYNC_DATABASE_URL", server.url())
        monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
        assert wedsync("migrate").code == 0
        with psycopg.connect(server.url(), autocommit=True) as app:
            powers = "rolsuper, rolcreaterole, rolcreatedb, rolbypassrls"
            query = (
                f"SELECT session_user::text, current_user::text, {powers} FROM pg_roles WHERE rolname = session_user"
            )
            assert app.execute(query).fetchall() == [("wedsync_app", "wedsync_app", False, False, False, False)]
            owned = "SELECT relname FROM pg_class WHERE pg_has_role(session_user, relowner, 'MEMBER')"
            assert app.execute(owned).fetchall() == []
            app.execute("RESET ROLE")
            assert app.execute("SELECT count(*) FROM organizations").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute("ALTER TABLE organizations DISABLE ROW LEVEL SECURITY")
    finally:
        server.destroy()


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
