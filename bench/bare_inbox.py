"""Sets the limit: a FastAPI endpoint that checks a signature, does one insert and nothing else.

`python -m bench.bare_inbox PORT DATABASE_URL SECRET`
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from psycopg_pool import AsyncConnectionPool

_TABLE = """
CREATE TABLE IF NOT EXISTS bare_inbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text NOT NULL UNIQUE, event jsonb NOT NULL
)
"""
_INSERT = "INSERT INTO bare_inbox (event_id, event) VALUES (%s, %s::jsonb) ON CONFLICT DO NOTHING"


def make_app(database_url: str, secret: str) -> FastAPI:
    """Build the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncConnectionPool(
            database_url, min_size=10, max_size=10, kwargs={"autocommit": True}, open=False
        ) as pool:
            async with pool.connection() as connection:
                await connection.execute(_TABLE)
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/api/integrations/webhooks/stripe")
    async def receive(request: Request) -> Response:
        body = await request.body()
        stamp, _, signature = request.headers["stripe-signature"].partition(",v1=")
        expected = hmac.new(secret.encode(), stamp[2:].encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, signature):
            return Response(status_code=401)
        event = json.loads(body)
        async with app.state.pool.connection() as connection:
            await connection.execute(_INSERT, (event["id"], json.dumps(event)))
        return Response(b'{"received":true}', media_type="application/json")

    return app


def main() -> None:
    """Serve until killed."""
    port, database_url, secret = sys.argv[1:4]
    config = uvicorn.Config(make_app(database_url, secret), port=int(port), log_config=None, access_log=False)
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
