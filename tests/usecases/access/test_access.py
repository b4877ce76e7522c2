from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select, update

from wedsync.domain.access.principal import Answer, Unauthenticated, once
from wedsync.domain.errors import Conflict, InvalidInput
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import hash_api_key
from wedsync.kit.settings import Settings
from wedsync.store.access.tables import api_keys, idempotency_keys, organizations
from wedsync.store.db.session import Database
from wedsync.usecases.access import authenticate as module
from wedsync.usecases.access.answer_once import IdempotencyMismatch, answer_once
from wedsync.usecases.access.authenticate import KeyCache, authenticate
from wedsync.usecases.access.bootstrap import LOCAL_ORGANIZATION_ID, ensure_local_organization

PEPPER = "pepper"


@pytest.fixture
async def db(fresh_database_urls: Any) -> AsyncIterator[Database]:
    database = Database(fresh_database_urls.app, 6)
    yield database
    await database.close()


async def add_key(db: Database, key: str, organization_id: str = "o1") -> None:
    now = utc_now()
    async with db.system() as conn:
        await conn.execute(insert(organizations).values(id=organization_id, name="Studio", created_at=now))
        values = {"id": f"id-{key}", "organization_id": organization_id, "name": "k", "created_at": now}
        await conn.execute(insert(api_keys).values(key_hmac=hash_api_key(key, PEPPER), **values))


async def revoke(db: Database) -> None:
    async with db.system() as conn:
        await conn.execute(update(api_keys).values(revoked_at=utc_now()))


async def test_a_key_tells_its_organization_and_only_under_its_pepper(db: Database) -> None:
    await add_key(db, "wsk_1")
    principal = await authenticate(db, "wsk_1", PEPPER)
    assert (principal.organization_id, principal.key_id, principal.actor) == ("o1", "id-wsk_1", "key:id-wsk_1")
    with pytest.raises(Unauthenticated):
        await authenticate(db, "wsk_1", "another pepper")


@pytest.mark.parametrize("key", ["", "wsk_2", "x" * 201, "\ud800"])
async def test_what_is_no_known_key_is_refused(db: Database, key: str) -> None:
    with pytest.raises(Unauthenticated):
        await authenticate(db, key, PEPPER)


async def test_a_revoked_key_dies_within_the_caches_life(db: Database) -> None:
    await add_key(db, "wsk_1")
    now = [0.0]
    cache = KeyCache(lambda: now[0])
    await authenticate(db, "wsk_1", PEPPER, cache)
    await revoke(db)
    now[0] = module.KNOWN_SECONDS - 1
    assert (await authenticate(db, "wsk_1", PEPPER, cache)).organization_id == "o1"
    now[0] = module.KNOWN_SECONDS + 1
    with pytest.raises(Unauthenticated):
        await authenticate(db, "wsk_1", PEPPER, cache)


async def test_a_new_key_is_known_soon_after_it_was_refused(db: Database) -> None:
    now = [0.0]
    cache = KeyCache(lambda: now[0])
    with pytest.raises(Unauthenticated):
        await authenticate(db, "wsk_1", PEPPER, cache)
    await add_key(db, "wsk_1")
    with pytest.raises(Unauthenticated):
        await authenticate(db, "wsk_1", PEPPER, cache)
    now[0] = module.UNKNOWN_SECONDS + 1
    assert (await authenticate(db, "wsk_1", PEPPER, cache)).organization_id == "o1"


def test_the_cache_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 2)
    cache = KeyCache()
    for key in (b"1", b"2", b"3"):
        cache.put(key, None)
    assert [cache.get(key)[0] for key in (b"1", b"2", b"3")] == [False, True, True]


async def test_the_local_organization_is_made_once_and_its_key_kept(db: Database) -> None:
    local = Settings()
    first = await ensure_local_organization(db, local)
    assert first.organization_id == LOCAL_ORGANIZATION_ID
    kept = local.model_copy(update={"api_key": SecretStr(first.api_key)})
    assert await ensure_local_organization(db, kept) == first
    async with db.system() as conn:
        stored = (await conn.execute(select(api_keys.c.key_hmac))).scalars().all()
    pepper = local.api_key_pepper.get_secret_value()
    assert [bytes(found) for found in stored] == [hash_api_key(first.api_key, pepper)]
    assert (await authenticate(db, first.api_key, pepper)).organization_id == LOCAL_ORGANIZATION_ID


async def test_a_key_of_ones_own_becomes_the_local_organizations(db: Database) -> None:
    own = Settings(api_key=SecretStr("my-own-key"))
    assert (await ensure_local_organization(db, own)).api_key == "my-own-key"


async def test_a_key_that_is_taken_revoked_or_none_is_refused(db: Database) -> None:
    with pytest.raises(InvalidInput):
        await ensure_local_organization(db, Settings(api_key=SecretStr("short")))
    settings = Settings(api_key=SecretStr("wsk_12345"), api_key_pepper=SecretStr(PEPPER))
    await add_key(db, "wsk_12345")
    with pytest.raises(Conflict):
        await ensure_local_organization(db, settings)
    await revoke(db)
    with pytest.raises(Conflict):
        await ensure_local_organization(db, settings)


async def test_outside_the_local_environment_there_is_no_local_organization(db: Database) -> None:
    secrets = {
        "api_key_pepper": SecretStr("p"),
        "link_secret": SecretStr("l"),
        "codec_keys": SecretStr("k:" + "0" * 64),
    }
    with pytest.raises(InvalidInput):
        await ensure_local_organization(db, Settings(environment="production", **secrets))  # type: ignore[arg-type]


async def test_the_same_key_at_once_acts_once_and_the_others_are_told_to_wait(db: Database) -> None:
    await add_key(db, "wsk_1")
    said, acting, release, acts = once("k", "POST", "/p", b"{}"), asyncio.Event(), asyncio.Event(), []

    async def write(conn: Any) -> Answer:
        acts.append(1)
        acting.set()
        await release.wait()
        return Answer(status=201, headers={"Location": "/x"}, body={"id": 1})

    first = asyncio.create_task(answer_once(db, "o1", said, write))
    await acting.wait()
    with pytest.raises(Conflict) as caught:
        await answer_once(db, "o1", said, write)
    assert caught.value.reason == "idempotency_in_flight"
    release.set()
    answer, is_replay = await first
    assert not is_replay
    assert await answer_once(db, "o1", said, write) == (answer, True)
    assert acts == [1]
    with pytest.raises(IdempotencyMismatch):
        await answer_once(db, "o1", once("k", "POST", "/p", b"[]"), write)


async def test_a_deed_that_raises_leaves_the_key_free(db: Database) -> None:
    await add_key(db, "wsk_1")
    said = once("k", "POST", "/p", b"{}")

    async def failing(conn: Any) -> Answer:
        raise LookupError

    async def write(conn: Any) -> Answer:
        return Answer(status=202)

    with pytest.raises(LookupError):
        await answer_once(db, "o1", said, failing)
    assert await answer_once(db, "o1", said, write) == (Answer(status=202), False)


async def test_a_key_remembered_in_between_counts_as_in_flight(db: Database) -> None:
    await add_key(db, "wsk_1")
    said = once("k", "POST", "/p", b"{}")

    async def write(conn: Any) -> Answer:
        values = {"organization_id": "o1", "key": "k", "fingerprint": "f", "created_at": utc_now()}
        await conn.execute(insert(idempotency_keys).values(values))
        return Answer(status=202)

    with pytest.raises(Conflict):
        await answer_once(db, "o1", said, write)
