"""`wedsync vendors | migrate | up | down`: what belongs to the programs themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.request

import psycopg
import pytest

from wedsync.kit import temporal
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.store import migrate


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
