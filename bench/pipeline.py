"""Measures what `VendorGateway` adds to the bare HTTP call, in a process set up like the worker's.

`python -m bench.pipeline COUNT` prints `{"gateway": [seconds...], "bare": [seconds...]}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from bench.saga_calls import Order, request_of
from wedsync.domain.vendors.call import Call
from wedsync.kit import logs, telemetry
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.vendors.registry import load_registry

_WARM_UP = 20


def _call(number: int) -> Call:
    to = {"id": "couple", "name": "Giulia Ferrari", "email": "giulia.ferrari@example.com", "phone": "+390318125551"}
    subject, text = "Villa Aurora is yours: 2027-06-19", "Villa Aurora is booked for 2027-06-19."
    return Call(
        organization_id="bench",
        wedding_id="bench",
        transaction_id="bench",
        step_id="confirmation",
        vendor="resend",
        action="email.send",
        operation="send_email",
        idempotency_key=f"pipeline-{number}",
        reference=f"{number:032d}",
        inputs={"to": to, "subject": subject, "text": text},
        first_sent_at=datetime.now(UTC),
    )


async def measure(settings: Settings, count: int) -> dict[str, list[float]]:
    """Make `count` calls of each, one after another and by turns."""
    pool = new_pool()
    bare = httpx.AsyncClient(trust_env=False)
    HTTPXClientInstrumentor.uninstrument_client(bare)
    gateway = VendorGateway(settings, load_registry(), pool)
    root = settings.vendor("resend").base_url.removesuffix("/resend")
    taken: dict[str, list[float]] = {"gateway": [], "bare": []}
    for number in range(count + _WARM_UP):
        call = _call(number)
        started = time.perf_counter()
        await gateway.send(call)
        between = time.perf_counter()
        path, sent = request_of(Order(f"bare-{number}", "confirmation"))
        (await bare.post(root + path, **sent)).raise_for_status()
        ended = time.perf_counter()
        if number >= _WARM_UP:
            taken["gateway"].append(between - started)
            taken["bare"].append(ended - between)
    await pool.aclose()
    await bare.aclose()
    return taken


def main() -> None:
    """Measure as the worker does: instrumented, and logging each call."""
    settings = Settings()
    logs.setup(settings, "pipeline")
    telemetry.setup(settings, "pipeline")
    print(json.dumps(asyncio.run(measure(settings, int(sys.argv[1])))))


if __name__ == "__main__":
    main()
