from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, text

from tests.support.black_hole import black_hole
from wedsync.domain.errors import NotFound, StoreUnavailable
from wedsync.domain.inbox.token_bucket import Limit
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.crypto import Keyring
from wedsync.kit.settings import Settings
from wedsync.store.db.session import Database
from wedsync.store.inbox.tables import inbox
from wedsync.usecases.inbox.record import Recorder
from wedsync.usecases.inbox.sources import SourceRegistry
from wedsync.vendors.registry import load_registry


def message(event_id: str, size: int = 10) -> list[tuple[str, NewRow]]:
    event = VendorEvent(source="stripe", event_id=event_id, type="other", vendor_type="x")
    return [("stripe", NewRow(event=event, priority=3, sealed_body=b"x" * size))]


@asynccontextmanager
async def hung_database() -> AsyncIterator[Database]:
    async with black_hole() as address:
        db = Database(f"postgresql://nobody:x@{address}/none")
        yield db
        await db.close()


async def reasons(*actions: Any) -> list[str]:
    ended = await asyncio.gather(*actions, return_exceptions=True)
    return [one.reason for one in ended if isinstance(one, StoreUnavailable)]


async def test_whoever_waits_for_a_hung_database_is_answered_by_the_same_deadline() -> None:
    async with hung_database() as db:
        recorder = Recorder(db, 1.0, most_held=3000)
        started = time.monotonic()
        # As one batch after the other they would take ten deadlines.
        assert await reasons(*(recorder.record(message(f"evt_{n}")) for n in range(3000))) == ["timeout"] * 3000
        assert time.monotonic() - started < 6
        await recorder.close()
        # Nothing of them is held any more.
        assert await reasons(recorder.record(message("evt_1"))) == ["timeout"]
        await recorder.close()


async def test_what_a_hung_database_holds_up_is_bounded_by_count_and_by_size() -> None:
    async with hung_database() as db:
        few, small = Recorder(db, 1.0, most_held=5), Recorder(db, 1.0, most_held_bytes=50_000)
        assert sorted(await reasons(*(few.record(message(f"evt_{n}")) for n in range(9)))) == [
            "full", "full", "full", "full", "timeout", "timeout", "timeout", "timeout", "timeout",
        ]  # fmt: skip
        found = await reasons(*(small.record(message(f"evt_{n}", 10_000)) for n in range(4)))
        assert sorted(found) == ["full", "full", "timeout", "timeout"]
        # One message alone is never too large: what it may be is the API's to say.
        await small.close()
        assert await reasons(small.record(message("evt_9", 100_000))) == ["timeout"]
        await asyncio.gather(few.close(), small.close())


async def test_a_database_that_answers_again_takes_what_is_sent_again(fresh_database_urls: Any) -> None:
    db, other = Database(fresh_database_urls.app), Database(fresh_database_urls.owner)
    recorder = Recorder(db, 1.0)
    async with other._engine.connect() as holder:
        await holder.execute(text("BEGIN"))
        await holder.execute(text("LOCK TABLE inbox"))
        assert await reasons(*(recorder.record(message(f"evt_{n}")) for n in range(400))) == ["timeout"] * 400
        await holder.execute(text("ROLLBACK"))
    await asyncio.gather(*(recorder.record(message(f"evt_{n}")) for n in range(400)))
    await recorder.close()
    async with db.system() as connection:
        assert await connection.scalar(select(func.count()).select_from(inbox)) == 400
    await asyncio.gather(db.close(), other.close())


async def test_a_registered_source_that_cannot_be_read_is_unavailable_in_time(settings: Settings) -> None:
    keyring = Keyring.parse(settings.codec_keys.get_secret_value())
    async with hung_database() as db:
        sources = SourceRegistry(settings, db, load_registry(), keyring, Limit(per_second=1.0, burst=1.0), 0.5)
        started = time.monotonic()
        assert await reasons(*(sources.find("weather") for _ in range(20))) == ["timeout"] * 20
        assert time.monotonic() - started < 4
        # However many names are asked for, the reads are bounded; what no source is called is not even looked up.
        assert (await reasons(*(sources.find(f"weather-{n}") for n in range(300)))).count("full") >= 200
        with pytest.raises(NotFound):
            await sources.find("x" * 101)
        await sources.close()
