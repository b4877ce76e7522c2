"""Runs the usual alternative: FastAPI checks the signature and puts a Celery task on Redis; a worker does the job.

The endpoint is `python -m bench.celery_inbox PORT`, the worker `celery -A bench.celery_inbox worker`. The job is what
the drain does of ours: the event is recorded once, and its wedding's workflow is signalled. The endpoint acknowledges
once Redis has the task. Settings come by environment: `BENCH_REDIS_URL`, `BENCH_PEER_DATABASE_URL`,
`BENCH_WEBHOOK_SECRET`, `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sys
from typing import Any

import psycopg
import uvicorn
from celery import Celery
from celery.signals import worker_process_init
from fastapi import FastAPI, Request, Response
from temporalio.client import Client

from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, wedding_workflow_id

TABLE = """
CREATE TABLE IF NOT EXISTS celery_inbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text NOT NULL UNIQUE, event jsonb NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz
)
"""
_RECORD = "INSERT INTO celery_inbox (event_id, event) VALUES (%s, %s::jsonb) ON CONFLICT DO NOTHING"
_SETTLE = "UPDATE celery_inbox SET processed_at = now() WHERE event_id = %s"

jobs = Celery("inbox", broker=os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1/0"))
# As one would have it who must not lose tasks: acknowledged when done, given to another worker when one dies.
jobs.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True)


class Peers:
    """Connections of one worker process."""

    loop: asyncio.AbstractEventLoop
    client: Client
    connection: psycopg.Connection[Any]


@worker_process_init.connect
def _connect(**_: Any) -> None:
    Peers.loop = asyncio.new_event_loop()
    address, namespace = os.environ["TEMPORAL_ADDRESS"], os.environ["TEMPORAL_NAMESPACE"]
    Peers.client = Peers.loop.run_until_complete(Client.connect(address, namespace=namespace))
    Peers.connection = psycopg.connect(os.environ["BENCH_PEER_DATABASE_URL"], autocommit=True)


@jobs.task(name="inbox.process")
def process(body: str) -> None:
    """Record the event once and signal its wedding."""
    event = json.loads(body)
    Peers.connection.execute(_RECORD, (event["id"], body))
    wedding_id = event["data"]["object"]["metadata"]["wedding_id"]
    handle = Peers.client.get_workflow_handle(wedding_workflow_id(wedding_id))
    Peers.loop.run_until_complete(handle.signal(VENDOR_EVENT_SIGNAL, {"event_id": event["id"]}))
    Peers.connection.execute(_SETTLE, (event["id"],))


def make_app(secret: str) -> FastAPI:
    """Build the endpoint."""
    app = FastAPI()

    @app.post("/api/integrations/webhooks/stripe")
    async def receive(request: Request) -> Response:
        body = await request.body()
        stamp, _, signature = request.headers["stripe-signature"].partition(",v1=")
        expected = hmac.new(secret.encode(), stamp[2:].encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, signature):
            return Response(status_code=401)
        # Celery's client blocks: in a thread, as its users do.
        await asyncio.to_thread(process.delay, body.decode())
        return Response(b'{"received":true}', media_type="application/json")

    return app


def main() -> None:
    """Serve until killed."""
    app = make_app(os.environ["BENCH_WEBHOOK_SECRET"])
    config = uvicorn.Config(app, port=int(sys.argv[1]), log_config=None, access_log=False)
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
