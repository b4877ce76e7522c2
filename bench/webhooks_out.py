"""Outgoing webhooks: deliveries a second against a bare httpx loop; what endpoints that hang do to the others.

`python -m bench.webhooks_out`; `BENCH_QUICK=1` is a small run that shows that it works. The bare loop signs the same
bodies and posts them four at a time over one pool, with no database. Ours claims, signs, guards, posts and records,
four at a time to the one endpoint. The delivery sender runs without Temporal, whose workflow only starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import structlog
from sqlalchemy import func, insert, select
from temporalio.client import Client

from bench.meter import percentile
from wedsync.dispatch.outbox import OutboxDispatcher
from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.signing import Event, body_of, headers_of
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.kit.ids import new_id
from wedsync.kit.settings import LOCAL_CODEC_KEY
from wedsync.local.ports import free_port
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.store.access.tables import organizations
from wedsync.store.db import migrate
from wedsync.store.db.session import Database
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox.tables import deliveries, webhook_subscriptions
from wedsync.usecases.outbox import secrets
from wedsync.usecases.outbox.delivery_sender import DeliverySender
from wedsync.usecases.outbox.send import AttemptSender

_KEYRING = Keyring.parse(LOCAL_CODEC_KEY)
_AT_ONCE = 4
_ORGANIZATION = "bench"


@dataclass(frozen=True)
class Size:
    """Size of the measurement."""

    rounds: int
    deliveries: int
    endpoints: int
    hanging: int
    per_second: int
    seconds: int


FULL = Size(rounds=3, deliveries=3000, endpoints=1000, hanging=100, per_second=60, seconds=40)
QUICK = Size(rounds=1, deliveries=200, endpoints=50, hanging=5, per_second=20, seconds=5)


async def _nobody() -> Client:
    raise TemporalUnreachable("the bench pumps by itself")


@dataclass
class Office:
    """A database and its delivery sender."""

    db: Database
    sender: AttemptSender
    delivery_sender: DeliverySender
    base_url: str

    async def subscribe(self, path: str) -> str:
        """Subscribe an endpoint of the receiver."""
        now, subscription_id = utc_now(), new_id()
        sealed = secrets.seal(_KEYRING, _ORGANIZATION, subscription_id, [secrets.new_secret(now)])
        row = {
            "id": subscription_id,
            "organization_id": _ORGANIZATION,
            "url": self.base_url + path,
            "event_types": ["webhook.none"],
            "filters": {},
            "secrets": sealed,
            "api_version": "2026-11-01",
            "payload": "full",
            "max_attempts": 8,
            "backoff": "exponential",
            "created_at": now,
            "updated_at": now,
        }
        async with self.db.system() as conn:
            await conn.execute(insert(webhook_subscriptions).values(row))
        return subscription_id

    async def record(self, subscription_id: str, count: int) -> None:
        """Record so many events for one endpoint."""
        events = [DomainEvent(type="step.succeeded", data={"id": f"step-{number}"}) for number in range(count)]
        async with self.db.tenant(_ORGANIZATION) as conn:
            await outbox.announce(conn, _ORGANIZATION, events, utc_now(), only=subscription_id)


@contextlib.asynccontextmanager
async def open_office() -> AsyncIterator[Office]:
    """Start Postgres, a receiver in a process of its own, and a delivery sender in this one."""
    with tempfile.TemporaryDirectory(prefix="wedsync-bench-") as home:
        postgres, port = EmbeddedPostgres(Path(home) / "postgres"), free_port()
        receiver = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.webhook_receiver", str(port))
        try:
            await asyncio.to_thread(postgres.start)
            await migrate.upgrade(postgres.url(owner=True), postgres.credentials.app_password)
            db = Database(postgres.url(), 10)
            sender = AttemptSender(SsrfSafeHttp(SsrfPolicy(allow_loopback=True)), _KEYRING)
            delivery_sender = DeliverySender(db, sender, OutboxDispatcher(_nobody))
            async with db.system() as conn:
                await conn.execute(insert(organizations).values(id=_ORGANIZATION, name="Bench", created_at=utc_now()))
            yield Office(db, sender, delivery_sender, f"http://127.0.0.1:{port}")
            await delivery_sender.close()
            await sender.close()
            await db.close()
        finally:
            receiver.kill()
            await receiver.wait()
            await asyncio.to_thread(postgres.destroy)


async def ours(office: Office, count: int) -> float:
    """Return deliveries a second to one endpoint, from recorded to recorded as delivered."""
    subscription_id = await office.subscribe("/ours")
    for start in range(0, count, 500):
        await office.record(subscription_id, min(500, count - start))
    query = select(func.count()).where(
        deliveries.c.subscription_id == subscription_id, deliveries.c.status == "delivered"
    )
    began = time.perf_counter()
    while (await office.delivery_sender.run()).sent:
        await office.delivery_sender.idle()
    acquired = time.perf_counter() - began
    async with office.db.system() as conn:
        delivered = (await conn.execute(query)).scalar_one()
    if delivered != count:
        raise RuntimeError(f"{delivered} of {count} were delivered")
    return count / acquired


async def bare(office: Office, count: int) -> float:
    """Sign and post the same bodies by a loop."""
    secret = secrets.new_secret(utc_now()).secret
    left = list(range(count))
    async with httpx.AsyncClient(trust_env=False) as http:

        async def post() -> None:
            while left:
                event = Event(
                    id=f"evt_{new_id()}",
                    type="step.succeeded",
                    data={"id": f"step-{left.pop()}"},
                    occurred_at=utc_now(),
                    organization_id=_ORGANIZATION,
                    wedding_id=None,
                    sequence=None,
                )
                body = body_of(event, "full", "2026-11-01")
                headers = headers_of(event.id, new_id(), body, [secret], utc_now())
                answer = await http.post(f"{office.base_url}/bare", content=body, headers=headers)
                answer.raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(_AT_ONCE)))
        return count / (time.perf_counter() - began)


async def latencies(office: Office, size: Size, hanging: int) -> list[float]:
    """Return seconds from recorded to delivered at the healthy ones, while events come steadily for all of them."""
    healthy = [await office.subscribe(f"/well-{number}") for number in range(size.endpoints - hanging)]
    silent = [await office.subscribe("/hang") for _ in range(hanging)]
    every = [name for pair in zip(healthy, silent, strict=False) for name in pair] + healthy[len(silent) :]
    recording = asyncio.create_task(_record(office, every, size))
    while not recording.done():
        await office.delivery_sender.run()
        await asyncio.sleep(0.02)
    await recording
    while (await office.delivery_sender.run()).sent:
        pass
    query = select(deliveries.c.created_at, deliveries.c.delivered_at).where(deliveries.c.subscription_id.in_(healthy))
    async with office.db.system() as conn:
        rows = (await conn.execute(query)).all()
    missing = [row for row in rows if row.delivered_at is None]
    if missing:
        raise RuntimeError(f"{len(missing)} deliveries to healthy endpoints are missing")
    return [(row.delivered_at - row.created_at) / timedelta(seconds=1) for row in rows]


async def _record(office: Office, every: list[str], size: Size) -> None:
    began = time.monotonic()
    for number in range(size.per_second * size.seconds):
        await asyncio.sleep(max(0.0, began + number / size.per_second - time.monotonic()))
        await office.record(every[number % len(every)], 1)


async def run(size: Size) -> list[str]:
    """Measure; return the report's lines."""
    # A log line for each endpoint that hangs would drown the report.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async with open_office() as office:
        rates: dict[str, list[float]] = {"wedsync": [], "bare": []}
        await ours(office, 50)
        await bare(office, 50)
        for _ in range(size.rounds):
            rates["wedsync"].append(await ours(office, size.deliveries))
            rates["bare"].append(await bare(office, size.deliveries))
        without = await latencies(office, size, 0)
        with_hanging = await latencies(office, size, size.hanging)
    ratios = [mine / other for mine, other in zip(rates["wedsync"], rates["bare"], strict=True)]
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    lines = [
        f"Deliveries a second to one endpoint, {_AT_ONCE} at a time, {size.rounds} round(s) of {size.deliveries}",
        f"   wedsync / bare httpx loop: {statistics.median(ratios):.2f}; rounds {each}",
        *(f"   {name:<8} {statistics.median(values):7.1f} /s" for name, values in rates.items()),
        f"Healthy endpoints of {size.endpoints}, {size.per_second} events a second, from recorded to delivered",
    ]
    for name, values in (("none hangs", without), (f"{size.hanging} hang", with_hanging)):
        p50, p99 = percentile(values, 0.5) * 1000, percentile(values, 0.99) * 1000
        lines.append(f"   {name:<12} p50 {p50:6.0f} ms  p99 {p99:6.0f} ms  ({len(values)} deliveries)")
    return lines


def main() -> None:
    """Run and print."""
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    for line in asyncio.run(run(QUICK if quick else FULL)):
        print(line)


if __name__ == "__main__":
    main()
