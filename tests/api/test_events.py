from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn

from api.main import _Server
from wedsync.usecases.weddings import follow_events


@asynccontextmanager
async def serving(api: Any) -> AsyncIterator[tuple[httpx.AsyncClient, _Server]]:
    """A real server of the application, and a client of it."""
    config = uvicorn.Config(api.app, log_config=None, lifespan="off", timeout_graceful_shutdown=5)
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, headers=api.http.headers, timeout=20) as client:
        yield client, server
    server.should_exit = True
    await task
    listener.close()


class Stream:
    """Reads one stream of server-sent events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next event, or `{"comment": ...}`."""
        found: dict[str, Any] = {}
        async for line in self._lines:
            if not line and ("event" in found or "comment" in found):
                return found
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                found["comment"] = line[1:].strip()
            elif name == "data":
                found["data"] = json.loads(value)
            elif name in ("event", "id"):
                found[name] = value
        raise EOFError


@asynccontextmanager
async def following(client: httpx.AsyncClient, wedding: str, **headers: str) -> AsyncIterator[Stream]:
    async with client.stream("GET", f"/api/v1/weddings/{wedding}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield Stream(response)


async def test_what_happened_and_what_happens_is_told_in_order(api: Any) -> None:
    wedding = await api.wedding()
    async with serving(api) as (client, _), following(client, wedding["reference"]) as stream:
        first = await stream.next()
        assert (first["id"], first["event"], first["data"]["status"]) == ("1", "wedding", "planned")
        asked = await api.post(f"/weddings/{wedding['id']}/transactions", {"kind": "orchestrate"})
        second = await stream.next()
        assert (second["id"], second["event"]) == ("2", "transaction")
        assert second["data"] == {"id": asked.json()["id"], "kind": "orchestrate", "status": "running"}
        await api.hold(wedding["id"], "deposit", asked.json()["id"])
        third = await stream.next()
        assert (third["id"], third["event"], third["data"]["id"], third["data"]["status"]) == (
            "3", "step", "deposit", "held",
        )  # fmt: skip


async def test_a_stream_resumes_after_the_last_event_that_was_seen(api: Any) -> None:
    wedding_id, transaction_id = await api.orchestrated()
    await api.move(wedding_id, transaction_id, "completed")
    async with serving(api) as (client, _):
        async with following(client, wedding_id, **{"Last-Event-ID": "2"}) as stream:
            event = await stream.next()
            assert (event["id"], event["data"]["status"]) == ("3", "completed")
        api.app.state.heartbeat = 0.01
        async with following(client, wedding_id, **{"Last-Event-ID": "999999999999999999"}) as stream:
            assert "comment" in await stream.next()


async def test_silence_is_filled_with_heartbeats(api: Any) -> None:
    wedding = await api.wedding()
    api.app.state.heartbeat = 0.05
    async with serving(api) as (client, _), following(client, wedding["id"]) as stream:
        assert (await stream.next())["id"] == "1"
        assert [set(await stream.next()) for _ in range(3)] == [{"comment"}] * 3


async def test_a_stream_goes_on_after_the_listening_connection_broke(api: Any, database_urls: Any) -> None:
    wedding = await api.wedding()
    async with serving(api) as (client, _), following(client, wedding["id"]) as stream:
        await stream.next()
        with psycopg.connect(database_urls.owner, autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
                "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
        asked = await api.post(f"/weddings/{wedding['id']}/transactions", {"kind": "orchestrate"})
        assert (await stream.next())["data"]["id"] == asked.json()["id"]


async def test_without_notices_events_are_looked_for_long_before_the_next_heartbeat(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wedding = await api.wedding()
    monkeypatch.setattr(follow_events, "_POLL_SECONDS", 0.05)
    api.app.state.heartbeat = 600.0
    await api.app.state.notices.close()
    api.app.state.notices.is_closing = False
    async with serving(api) as (client, _), following(client, wedding["id"]) as stream:
        assert (await stream.next())["id"] == "1"
        asked = await api.post(f"/weddings/{wedding['id']}/transactions", {"kind": "orchestrate"})
        assert (await stream.next())["data"]["id"] == asked.json()["id"]
        await api.move(wedding["id"], asked.json()["id"], "completed")
        assert (await stream.next())["data"]["status"] == "completed"


async def test_a_client_that_leaves_is_forgotten(api: Any) -> None:
    wedding = await api.wedding()
    waiters = api.app.state.notices._waiters
    async with serving(api) as (client, _), following(client, wedding["id"]) as stream:
        await stream.next()
        assert wedding["id"] in waiters
    # The server ends only when every request has.
    assert waiters == {}


async def test_streams_end_when_the_server_stops(api: Any) -> None:
    wedding = await api.wedding()
    async with serving(api) as (client, server), following(client, wedding["id"]) as stream:
        await stream.next()
        server.should_exit = True
        async with asyncio.timeout(4):
            with pytest.raises(EOFError):
                await stream.next()


@pytest.mark.parametrize("last", ["x", "-1", "9" * 19, "1.5"])
async def test_a_last_event_id_that_is_none_is_refused(api: Any, last: str) -> None:
    wedding = await api.wedding()
    response = await api.http.get(f"/api/v1/weddings/{wedding['id']}/events", headers={"Last-Event-ID": last})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
