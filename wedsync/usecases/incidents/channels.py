"""Make, list, delete and try the channels by which operators are notified; every action is audited."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, NotFound
from wedsync.domain.incidents.notice import SEVERITIES, ChannelKind, EventKind, Notice, Severity, rank
from wedsync.domain.value import Value
from wedsync.kit.crypto import Keyring
from wedsync.kit.ids import new_id
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.store.incidents import notifications as store
from wedsync.usecases.incidents.deliver import seal_secret
from wedsync.usecases.outbox.secrets import new_secret
from wedsync.usecases.routing.read import RoutingView

MOST_CHANNELS = 50
_TARGETS = {
    "webhook": r"https?://\S+",
    "email": r"[^@\s]+@[^@\s]+\.[^@\s]+",
    "sms": r"\+[1-9][0-9]{6,14}",
    "log": "",
}


class WantedChannel(Value):
    """A channel as an operator requests it."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    kind: ChannelKind
    #: A URL, an address, a phone number (E.164); empty for the log.
    target: Annotated[str, Field(max_length=500)] = ""
    #: The kinds of news that it reports; none: everything.
    events: Annotated[tuple[EventKind, ...], Field(max_length=20)] = ()
    #: The least severity that it reports.
    least_severity: Severity = "info"
    #: The same news within this time is sent once.
    dedup_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300

    @model_validator(mode="after")
    def _fits(self) -> WantedChannel:
        if re.fullmatch(_TARGETS[self.kind], self.target) is None:
            raise ValueError(f"that is no target of a channel of kind {self.kind}")
        return self


class ChannelView(RoutingView):
    """A channel, and how its messages fare."""

    id: str
    name: str
    kind: ChannelKind
    target: str
    events: tuple[EventKind, ...]
    least_severity: Severity
    dedup_seconds: int
    created_at: datetime
    #: Messages that are still to be sent.
    waiting: int
    #: When a message was last sent.
    told_at: datetime | None
    #: What went wrong with the newest message; null: nothing.
    error: str | None


class ChannelWithSecret(ChannelView):
    """A new channel; a webhook's signing secret is shown this once."""

    secret: str | None = None


class Channels(RoutingView):
    """All channels of the organization."""

    data: tuple[ChannelView, ...]


async def create(
    conn: AsyncConnection, principal: Principal, wanted: WantedChannel, keyring: Keyring, channel_id: str, now: datetime
) -> ChannelWithSecret:
    """Make a channel whose URL was checked. Raises Conflict(reason="too_many_channels"). Inside `tenant()`."""
    if await store.count(conn) >= MOST_CHANNELS:
        raise Conflict(f"there are {MOST_CHANNELS} channels already", reason="too_many_channels")
    secret = new_secret(now).secret if wanted.kind == "webhook" else None
    owner = principal.organization_id
    values: dict[str, Any] = {
        **wanted.model_dump(),
        "id": channel_id,
        "organization_id": owner,
        "events": list(wanted.events),
        "least_severity": rank(wanted.least_severity),
        "secret": None if secret is None else seal_secret(keyring, owner, channel_id, secret),
        "created_at": now,
        "created_by": principal.actor,
    }
    await store.add(conn, values)
    audited = {"kind": wanted.kind, "events": list(wanted.events), "least_severity": wanted.least_severity}
    await access.audit(conn, principal, "notification_channel.created", _subject(channel_id), audited, now)
    shown = await show(conn, channel_id)
    return ChannelWithSecret(**shown.model_dump(), secret=secret)


async def read_all(conn: AsyncConnection) -> Channels:
    """List the organization's channels, the oldest first. Inside `tenant()`."""
    return Channels(data=tuple(_view(row) for row in await store.read(conn)))


async def show(conn: AsyncConnection, channel_id: str) -> ChannelView:
    """Return one channel. Raises NotFound. Inside `tenant()`."""
    for row in await store.read(conn, channel_id):
        return _view(row)
    raise NotFound(f"there is no channel {channel_id!r}")


async def delete(conn: AsyncConnection, principal: Principal, channel_id: str, now: datetime) -> None:
    """Delete the channel and give up what waits for it. Raises NotFound. Inside `tenant()`."""
    if not await store.remove(conn, channel_id):
        raise NotFound(f"there is no channel {channel_id!r}")
    await access.audit(conn, principal, "notification_channel.deleted", _subject(channel_id), {}, now)


async def try_out(db: Database, principal: Principal, channel_id: str, now: datetime) -> None:
    """Have a `channel.test` sent by the channel. Raises NotFound, StoreUnavailable."""
    async with db.tenant(principal.organization_id) as conn:
        shown = await show(conn, channel_id)
    notice = Notice(
        kind="channel.test",
        severity="info",
        service="wedsync",
        summary=f"a test of the channel {shown.name}, as an operator asked",
        occurred_at=now,
    )
    async with db.system() as conn:
        await store.announce_to(conn, channel_id, new_id(), notice)
        await access.audit(conn, principal, "notification_channel.tested", _subject(channel_id), {}, now)


def _subject(channel_id: str) -> str:
    return f"notification_channel/{channel_id}"


def _view(row: Any) -> ChannelView:
    values = {name: getattr(row, name) for name in ChannelView.model_fields if name != "least_severity"}
    return ChannelView.model_validate({**values, "least_severity": SEVERITIES[row.least_severity]})
