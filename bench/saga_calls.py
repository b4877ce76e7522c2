"""Makes the calls of the peers' activities: the same seven HTTP calls as the measured wedding, and one insert each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import httpx
from psycopg_pool import AsyncConnectionPool

#: The wedding's shape: who comes after whom is written in the sagas.
CALLS = ("venue.request", "venue.confirm", "dinner.request", "dinner.confirm", "photos", "confirmation", "message")
#: The eighth activity only inserts, as the product's own eighth writes the outcome. Undos, never measured, do so too.
SETTLE = "settle"
POOL_SIZE = 10
TABLE = """
CREATE TABLE IF NOT EXISTS saga_steps (
  saga text NOT NULL, step text NOT NULL, object_id text NOT NULL, at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (saga, step))
"""
_INSERT = "INSERT INTO saga_steps (saga, step, object_id) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_TIMES = {"starts_at": "2027-06-19T16:00:00+02:00", "ends_at": "2027-06-19T19:00:00+02:00", "timezone": "Europe/Rome"}


@dataclass(frozen=True)
class Order:
    """One step of one saga; `object_id` is what an earlier step gave."""

    saga: str
    step: str
    object_id: str = ""


class Vendors:
    """Connections of the peers: one HTTP pool and one database pool a process, sized as the product's."""

    def __init__(self) -> None:
        self.url = os.environ["WEDSYNC_VENDORS__GENERIC__BASE_URL"].removesuffix("/generic")
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=100)
        self.http = httpx.AsyncClient(limits=limits, trust_env=False, timeout=10)
        self.db = AsyncConnectionPool(
            os.environ["BENCH_PEER_DATABASE_URL"], max_size=POOL_SIZE, open=False, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        """Connect and make the table."""
        await self.db.open(wait=True)
        async with self.db.connection() as conn:
            await conn.execute(TABLE)

    async def close(self) -> None:
        """Close both pools."""
        await self.http.aclose()
        await self.db.close()

    async def carry_out(self, order: Order) -> str:
        """Make one HTTP call and one insert; return the vendor's id of what was made."""
        is_call = order.step in CALLS
        object_id = await self._call(order) if is_call else order.saga
        await self._record(order, object_id)
        return object_id

    async def _record(self, order: Order, object_id: str) -> None:
        async with self.db.connection() as conn:
            await conn.execute(_INSERT, (order.saga, order.step, object_id))

    async def _call(self, order: Order) -> str:
        path, sent = request_of(order)
        answer = await self.http.post(self.url + path, **sent)
        answer.raise_for_status()
        body = answer.json()
        return str(body.get("id") or body["sid"])


def request_of(order: Order) -> tuple[str, dict[str, Any]]:
    """Return the path and the arguments for httpx."""
    key = f"{order.saga}.{order.step}"
    bearer = {"Authorization": "Bearer local-api-key", "Idempotency-Key": key}
    step, _, operation = order.step.partition(".")
    match operation or step:
        case "request":
            business = {"venue": "villa", "dinner": "caterer"}[step]
            return f"/generic/{business}/bookings", {"headers": bearer, "json": _booking(order, step)}
        case "confirm":
            business = {"venue": "villa", "dinner": "caterer"}[step]
            path = f"/generic/{business}/bookings/{order.object_id}/confirm"
            return path, {"headers": bearer, "json": {"reference": f"{order.saga}{step}"}}
        case "photos":
            return "/google_calendar/calendars/local-account/events?sendUpdates=none", {
                "headers": bearer,
                "json": _event(order),
            }
        case "confirmation":
            return "/resend/emails", {"headers": bearer, "json": _email()}
        case _:
            form = {"To": "+390318125551", "From": "local-client", "Body": "Villa Aurora is booked."}
            return "/twilio/2010-04-01/Accounts/local-account/Messages.json", {
                "auth": ("local-account", "local-api-key"),
                "data": form,
            }


def _booking(order: Order, step: str) -> dict[str, Any]:
    contact = {"name": "Giulia Ferrari", "email": "giulia.ferrari@example.com", "phone": "+390318125551"}
    return {
        "reference": f"{order.saga}{step}",
        "title": "Ceremony for Giulia Ferrari & Tom Becker",
        **_TIMES,
        "guests": 2,
        "contact": contact,
        "price": {"amount": "2400.00", "currency": "EUR"},
        "notes": "",
        "answer": "now",
    }


def _event(order: Order) -> dict[str, Any]:
    return {
        "id": order.saga,
        "summary": "Elopement of Giulia Ferrari & Tom Becker",
        "start": {"dateTime": _TIMES["starts_at"], "timeZone": "Europe/Rome"},
        "end": {"dateTime": _TIMES["ends_at"], "timeZone": "Europe/Rome"},
        "description": "Villa's booking.",
    }


def _email() -> dict[str, Any]:
    return {
        "from": "onboarding@resend.dev",
        "to": ["giulia.ferrari@example.com"],
        "subject": "Villa Aurora is yours: 2027-06-19",
        "text": "Villa Aurora is booked for 2027-06-19.",
    }
