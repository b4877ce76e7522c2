"""Fair peer: the bare saga with what every product of this kind pays for. `python -m bench.fair_saga`.

Payloads go through the product's data converter and codec, search attributes are upserted as a wedding's are, and each
step leaves a row, a reference, an event and a NOTIFY in one transaction.
"""

from __future__ import annotations

import asyncio
import os

from temporalio import workflow
from temporalio.client import Client

with workflow.unsafe.imports_passed_through():
    from bench.bare_saga import BareSaga, serve
    from bench.names import FAIR_QUEUE
    from bench.saga_calls import Order, Vendors
    from wedsync.kit import temporal
    from wedsync.kit.settings import Settings

_TABLES = """
CREATE TABLE IF NOT EXISTS fair_steps (
  saga text NOT NULL, step text NOT NULL, status text NOT NULL, object_id text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (saga, step));
CREATE TABLE IF NOT EXISTS fair_references (object_id text, step text, saga text, PRIMARY KEY (object_id, step, saga));
CREATE TABLE IF NOT EXISTS fair_events (id bigserial PRIMARY KEY, saga text NOT NULL, step text NOT NULL,
  status text NOT NULL, at timestamptz NOT NULL DEFAULT now());
"""
_RECORD = """
WITH step AS (
  INSERT INTO fair_steps (saga, step, status, object_id) VALUES (%(saga)s, %(step)s, 'succeeded', %(object_id)s)
  ON CONFLICT (saga, step) DO UPDATE SET object_id = excluded.object_id),
reference AS (
  INSERT INTO fair_references (object_id, step, saga) VALUES (%(object_id)s, %(step)s, %(saga)s)
  ON CONFLICT DO NOTHING),
event AS (INSERT INTO fair_events (saga, step, status) VALUES (%(saga)s, %(step)s, 'succeeded'))
SELECT pg_notify('fair_events', %(saga)s)
"""


class FairVendors(Vendors):
    """Makes the same calls; each leaves a row, a reference, an event and a NOTIFY."""

    async def open(self) -> None:
        """Connect and make the tables."""
        await super().open()
        async with self.db.connection() as conn:
            await conn.execute(_TABLES)

    async def _record(self, order: Order, object_id: str) -> None:
        async with self.db.connection() as conn:
            await conn.execute(_RECORD, {"saga": order.saga, "step": order.step, "object_id": object_id})


@workflow.defn(name="FairSaga")
class FairSaga(BareSaga):
    """Bare saga that is listed by its state."""

    @workflow.init
    def __init__(self, saga: str) -> None:
        super().__init__(saga)

    @workflow.run
    async def run(self, saga: str) -> list[str]:
        """Publish that it runs, run, and publish its result, as a wedding does."""
        workflow.upsert_search_attributes(
            [temporal.WEDDING_PHASE.value_set("preparation"), temporal.TRANSACTION_STATUS.value_set("running")]
        )
        done = await super().run(saga)
        workflow.upsert_search_attributes(
            [temporal.TRANSACTION_STATUS.value_set("completed"), temporal.VENDOR.value_set(["generic", "resend"])]
        )
        return done


async def main() -> None:
    """Serve the fair peer."""
    client: Client = await temporal.connect(Settings())
    await serve(client, FAIR_QUEUE, FairSaga, FairVendors())


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
