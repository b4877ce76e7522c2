"""Stage that the routing benchmarks share: a Postgres of their own, a cheap vendor process, the whole pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wedsync.domain.vendors.call import Call
from wedsync.kit.http import Pool, new_pool
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db import migrate
from wedsync.store.db.session import Database
from wedsync.vendors.registry import load_registry

PRIMARY, BACKUP = 0, 1
_TO = {"id": "couple", "name": "Giulia Ferrari", "email": "giulia.ferrari@example.com", "phone": "+390318125551"}
_OPERATIONS = {"twilio": "send_message", "vonage": "send_sms", "open_meteo": "forecast"}


class Vendor:
    """Process of the vendor."""

    def __init__(self, process: asyncio.subprocess.Process, ports: list[int]) -> None:
        self._process = process
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]

    def tell(self, *command: object) -> None:
        """Send the vendor an instruction: see `bench.loopback_vendor`."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, command)) + "\n").encode())


@contextlib.asynccontextmanager
async def vendor(ports: int) -> AsyncIterator[Vendor]:
    """Run a vendor process with so many ports; it ends with the block."""
    argv = [sys.executable, "-m", "bench.loopback_vendor", str(ports)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env=dict(os.environ))
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Vendor(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        await process.wait()


@dataclass
class PipelineStage:
    """Whole pipeline of one process."""

    gateway: VendorGateway
    controller: AdmissionController
    pool: Pool
    vendor: Vendor


@contextlib.asynccontextmanager
async def database() -> AsyncIterator[str]:
    """Yield a migrated database; the server ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", hasty=True)
        try:
            await asyncio.to_thread(server.start)
            server.create_database("routing")
            await migrate.upgrade(server.url(owner=True, database="routing"), server.credentials.app_password)
            yield server.url(database="routing")
        finally:
            await asyncio.to_thread(server.destroy)


@contextlib.asynccontextmanager
async def pipeline(url: str, ports: int = 2) -> AsyncIterator[PipelineStage]:
    """Open the whole pipeline: Twilio and the weather at the vendor's first port, Vonage at its second."""
    async with vendor(ports) as made:
        places = {"twilio": PRIMARY, "open_meteo": PRIMARY, "vonage": BACKUP}
        account = {"api_key": "AC1:secret", "account_id": "AC1", "client_id": "+15005550006", "client_secret": "x"}
        vendors = {
            name: VendorSettings.model_validate({**account, "base_url": made.urls[place]})
            for name, place in places.items()
        }
        settings = Settings(database_url=url, vendors=vendors, api_url="http://127.0.0.1:9")
        db, pool, registry = Database(url, 5), new_pool(), load_registry()
        async with AdmissionController(db, registry.manifests).open() as controller:
            yield PipelineStage(VendorGateway(settings, registry, pool, controller), controller, pool, made)
        await pool.aclose()
        await db.close()


def call(vendor: str, number: int) -> Call:
    """Build a call for a text message by `vendor`, or for a forecast."""
    is_read = vendor == "open_meteo"
    inputs = {"latitude": 46.0, "longitude": 9.3} if is_read else {"to": _TO, "text": "You are booked."}
    return Call(
        organization_id="bench",
        wedding_id=f"w{number % 100}",
        transaction_id="bench",
        step_id="s",
        vendor=vendor,
        action="weather.forecast" if is_read else "sms.send",
        operation=_OPERATIONS[vendor],
        idempotency_key=f"k{number}",
        reference=f"{number:032d}",
        inputs=inputs,
        first_sent_at=datetime.now(UTC),
    )
