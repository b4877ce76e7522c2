"""Starts Redis, the Celery worker and its endpoint, beside the bench's stage."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.names import PEER_DATABASE
from bench.stage import Stage
from wedsync.local.ports import HOST, free_port
from wedsync.local.processes import Child
from wedsync.local.ready import answers, until_ready
from wedsync.local.temporal_server import NAMESPACE

_MODULE = "bench.celery_inbox"
#: The job waits for Postgres and Temporal more than it computes: more processes than cores.
_PROCESSES = 4


@dataclass
class CelerySide:
    """Programs of the other side, and how they are reached."""

    port: int
    database_url: str
    redis_url: str

    async def until_processed(self) -> None:
        """Return when Redis holds no task and each recorded event is processed."""
        import redis.asyncio

        async with (
            await psycopg.AsyncConnection.connect(self.database_url, autocommit=True) as connection,
            redis.asyncio.Redis.from_url(self.redis_url) as broker,
        ):
            while await self._left(connection, broker):  # noqa: ASYNC110 - the workers are other processes
                await asyncio.sleep(0.2)

    async def _left(self, connection: psycopg.AsyncConnection, broker: object) -> bool:
        # In the queue, or given to a worker and not acknowledged.
        if await broker.llen("celery") or await broker.hlen("unacked"):  # type: ignore[attr-defined]
            return True
        cursor = await connection.execute("SELECT count(*) FROM celery_inbox WHERE processed_at IS NULL")
        row = await cursor.fetchone()
        return bool(row and row[0])


@contextlib.asynccontextmanager
async def open_celery(stage: Stage, secret: str) -> AsyncIterator[CelerySide | None]:
    """Start the other side; yield None where Redis or Celery is not installed."""
    program = shutil.which("redis-server")
    if program is None or importlib.util.find_spec("celery") is None:
        yield None
        return
    from bench.celery_inbox import TABLE

    database_url = stage.postgres.url(owner=True, database=PEER_DATABASE)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(TABLE)
    side = CelerySide(free_port(), database_url, f"redis://{HOST}:{free_port()}/0")
    children = [await _start_redis(stage, program, side)]
    try:
        environment = {
            "BENCH_REDIS_URL": side.redis_url,
            "BENCH_WEBHOOK_SECRET": secret,
            "TEMPORAL_NAMESPACE": NAMESPACE,
        }
        words = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            _MODULE,
            "worker",
            "--concurrency",
            str(_PROCESSES),
            "-l",
            "error",
        ]
        children.append(stage.spawn("celery", words, **environment))
        endpoint = stage.spawn("celery-inbox", [sys.executable, "-m", _MODULE, str(side.port)], **environment)
        children.append(endpoint)
        await until_ready(endpoint, lambda: answers(f"http://{HOST}:{side.port}/openapi.json"), seconds=60)
        yield side
    finally:
        for child in reversed(children):
            await asyncio.to_thread(child.stop, 10)


async def _start_redis(stage: Stage, program: str, side: CelerySide) -> Child:
    """Start Redis with its log flushed each second: what is acknowledged survives, but for the last second's."""
    home = Path(stage.home) / "redis"
    home.mkdir()
    port = side.redis_url.rpartition(":")[2].partition("/")[0]
    words = [program, "--port", port, "--bind", HOST, "--dir", str(home), "--save", "", "--appendonly", "yes"]
    child = stage.spawn("redis", words)

    async def answers_ping() -> bool:
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(side.redis_url) as broker:
            try:
                return bool(await broker.ping())
            except redis.RedisError:
                return False

    await until_ready(child, answers_ping, seconds=30)
    return child
