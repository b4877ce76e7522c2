"""Match events to the subscriptions that get them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.matching import passes, wants
from wedsync.domain.value import Value


class Subscriber(Value):
    """A subscription's wishes: patterns of types, and allowed values by dotted path."""

    id: str
    event_types: list[str]
    filters: dict[str, Any]


class FanOut(Value):
    """An event and the subscriptions that it goes to."""

    event: DomainEvent
    subscriptions: tuple[str, ...]


def fan_out(
    news: Sequence[DomainEvent], subscribers: Sequence[Subscriber], *, only: str | None = None, keep: bool = False
) -> Iterator[FanOut]:
    """Yield each event with the subscriptions that want it, in order.

    Events that nobody wants are left out, unless `keep`. `only` gives them to one subscription whatever it wants.
    """
    for event in news:
        shape = event.model_dump(mode="json")
        wanted = (only,) if only else tuple(one.id for one in subscribers if _is_for(one, shape))
        if wanted or keep:
            yield FanOut(event=event, subscriptions=wanted)


def _is_for(subscriber: Subscriber, event: dict[str, Any]) -> bool:
    return wants(subscriber.event_types, event["type"]) and passes(subscriber.filters, event)
