"""`wedsync organizations | keys`: an installation without anybody in it gets its first key."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from wedsync.domain.access.principal import Principal, Unauthenticated
from wedsync.store.access.tables import audit_log
from wedsync.store.db.session import Database
from wedsync.usecases.access.authenticate import authenticate

PEPPER = "a pepper of this installation"


@pytest.fixture
def installation(nowhere, monkeypatch, fresh_database_urls):
    for name in ("API_KEY_PEPPER", "LINK_SECRET"):
        monkeypatch.setenv(f"WEDSYNC_{name}", PEPPER)
    monkeypatch.setenv("WEDSYNC_CODEC_KEYS", f"k1:{'ab' * 32}")
    monkeypatch.setenv("WEDSYNC_ENVIRONMENT", "production")
    monkeypatch.setenv("WEDSYNC_DATABASE_URL", fresh_database_urls.app)
    return fresh_database_urls.app


def _principal(url: str, key: str) -> Principal:
    async def ask() -> Principal:
        db = Database(url, 1)
        try:
            return await authenticate(db, key, PEPPER)
        finally:
            await db.close()

    return asyncio.run(ask())


def _log(url: str, organization: str) -> list[tuple[str, str]]:
    async def read() -> list[tuple[str, str]]:
        db = Database(url, 1)
        try:
            async with db.tenant(organization) as conn:
                rows = await conn.execute(select(audit_log.c.actor, audit_log.c.action).order_by(audit_log.c.id))
                return [(row.actor, row.action) for row in rows]
        finally:
            await db.close()

    return asyncio.run(read())


def test_the_first_organization_gets_a_key_that_the_api_knows(installation, wedsync):
    made = wedsync("organizations", "create", " Villa Aurora ", "--json")
    assert made.code == 0
    principal = _principal(installation, made.json["api_key"])
    assert (principal.organization_id, principal.key_id) == (made.json["organization_id"], made.json["key_id"])
    listed = wedsync("organizations", "list", "--json")
    (one,) = listed.json["data"]
    assert (one["name"], [key["key_id"] for key in one["keys"]]) == ("Villa Aurora", [principal.key_id])
    assert made.json["api_key"] not in listed.out


def test_people_are_shown_the_key_once(installation, wedsync):
    made = wedsync("organizations", "create", "Studio", "--id", "studio-1")
    (line,) = [line for line in made.out.splitlines() if line.startswith("WEDSYNC_API_KEY=")]
    key = line.removeprefix("WEDSYNC_API_KEY=")
    assert _principal(installation, key).organization_id == "studio-1"
    listed = wedsync("organizations", "list")
    assert "studio-1" in listed.out
    assert key not in listed.out


def test_a_key_can_be_replaced_and_the_old_one_taken_back(installation, wedsync):
    old = wedsync("organizations", "create", "Studio", "--id", "studio", "--json").json
    new = wedsync("keys", "create", "studio", "--name", "new laptop", "--json").json
    first = wedsync("keys", "revoke", old["key_id"], "--json")
    assert (first.code, first.json["key_id"]) == (0, old["key_id"])
    assert wedsync("keys", "revoke", old["key_id"], "--json").json == first.json
    with pytest.raises(Unauthenticated):
        _principal(installation, old["api_key"])
    assert _principal(installation, new["api_key"]).organization_id == "studio"
    actions = ["organization.created", "key.created", "key.created", "key.revoked"]
    assert _log(installation, "studio") == [("system:cli", action) for action in actions]
    assert "new laptop" in wedsync("organizations", "list").out


def test_what_can_not_be_made_is_refused_by_its_exit_code(installation, wedsync):
    assert wedsync("organizations", "create", "Studio", "--id", "studio").code == 0
    taken = wedsync("organizations", "create", "Other", "--id", "studio", "--json")
    assert (taken.code, taken.json["error"]["code"]) == (6, "conflict")
    for argv, field in (
        (("organizations", "create", " "), "name"),
        (("organizations", "create", "A", "--id", "a b"), "id"),
        (("keys", "create", "studio", "--name", ""), "key_name"),
    ):
        ran = wedsync(*argv, "--json")
        assert (ran.code, [error["field"] for error in ran.json["error"]["errors"]]) == (2, [field])
    assert wedsync("keys", "create", "nobody").code == 6
    assert wedsync("keys", "revoke", "nothing").code == 6
    assert [one["name"] for one in wedsync("organizations", "list", "--json").json["data"]] == ["Studio"]


def test_without_a_database_it_exits_2_and_with_one_that_is_away_7(nowhere, wedsync, monkeypatch):
    monkeypatch.delenv("WEDSYNC_DATABASE_URL", raising=False)
    ran = wedsync("organizations", "create", "Studio", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "database_url_missing")
    monkeypatch.setenv("WEDSYNC_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
    assert wedsync("organizations", "list").code == 7
