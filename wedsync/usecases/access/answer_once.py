"""Carry a request out once per `Idempotency-Key`, and replay its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer, Once
from wedsync.domain.errors import Conflict, WedsyncError
from wedsync.kit.clock import utc_now
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database

_HELD_UNTIL = "held-until"

#: Acts within the given transaction, and returns the answer.
Write = Callable[[AsyncConnection], Awaitable[Answer]]


class IdempotencyMismatch(WedsyncError):
    """The key came before with another request."""

    code: ClassVar[str] = "idempotency_key_reused"


async def answer_once(
    db: Database, organization_id: str, once: Once, write: Write, *, wait: timedelta = timedelta()
) -> tuple[Answer, bool]:
    """Return `(answer, is_replay)`: the action's own answer, or the one that this key got before.

    Action and answer are recorded in one transaction, so a crash leaves either both or nothing; an action that raises
    leaves the key free. With `wait` the key counts as in flight for so long, or until `finish`. Raises
    IdempotencyMismatch (another request), Conflict with reason `idempotency_in_flight`, and what the action raises.
    """
    now = utc_now()
    async with db.tenant(organization_id) as conn:
        if not await access.lock_once(conn, organization_id, once.key):
            raise _in_flight()
        known = await access.read_once(conn, organization_id, once.key)
        if known is not None:
            return _replayed(known, once, now), True
        answer = await write(conn)
        held = {_HELD_UNTIL: (now + wait).isoformat()} if wait else {}
        kept = answer.model_copy(update={"headers": {**answer.headers, **held}})
        if not await access.remember_once(conn, organization_id, once, kept, is_final=not wait, now=now):
            raise _in_flight()
    return answer, False


async def answer_repeatable(
    db: Database, organization_id: str, once: Once, write: Callable[[], Awaitable[Answer]]
) -> tuple[Answer, bool]:
    """Answer as `answer_once` does, for an action that is idempotent by itself: it holds no connection.

    Two requests at once with one key may both carry it out; one answer is kept. Raises IdempotencyMismatch, and what
    the action raises.
    """
    now = utc_now()
    async with db.tenant(organization_id) as conn:
        known = await access.read_once(conn, organization_id, once.key)
    if known is not None:
        return _replayed(known, once, now), True
    answer = await write()

    async def done(_: AsyncConnection) -> Answer:
        return answer

    return await answer_once(db, organization_id, once, done)


async def finish(db: Database, organization_id: str, key: str, answer: Answer) -> None:
    """Make `answer` the replayed one, once its caller has waited long enough."""
    async with db.tenant(organization_id) as conn:
        await access.finish_once(conn, organization_id, key, answer)


def _replayed(known: Any, once: Once, now: datetime) -> Answer:
    if known.fingerprint != once.fingerprint:
        raise IdempotencyMismatch("this Idempotency-Key came before with another request; take a new one")
    headers = dict(known.headers or {})
    held_until = headers.pop(_HELD_UNTIL, None)
    if known.status is None and held_until and now < datetime.fromisoformat(held_until):
        raise _in_flight()
    return Answer(status=known.status or 202, headers=headers, body=known.body)


def _in_flight() -> Conflict:
    return Conflict("a request with this Idempotency-Key is being answered", reason="idempotency_in_flight")
