"""Turn a wedding's numbered changes, which watchers follow, into domain events for subscribers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from wedsync.domain.outbox.catalogue import EVENT_TYPES, CeremonyTime
from wedsync.domain.value import Value

_STEP_STATUSES = ("succeeded", "failed", "held", "skipped")
_STARTED = "running"


class Change(Value):
    """One row of `wedding_events`, with the last one before it about the same object."""

    id: int
    #: step | transaction | wedding
    kind: str
    data: dict[str, Any]
    previous: dict[str, Any] | None


class WeddingFacts(Value):
    """Facts of the wedding itself for its events."""

    id: str
    organization_id: str
    reference: str
    ceremony: CeremonyTime
    #: The ceremony's earlier time, if this very change moved it.
    previous_ceremony: CeremonyTime | None = None


class DomainEvent(Value):
    """An event to be sent."""

    type: str
    data: dict[str, Any]
    sequence: int | None = None
    wedding_id: str | None = None
    #: Nobody needs it after that.
    useful_until: datetime | None = None


def domain_events(
    changes: Sequence[Change], wedding: WeddingFacts, paid: Mapping[str, Sequence[dict[str, Any]]]
) -> list[DomainEvent]:
    """Make these changes' events, in order; `paid` holds the succeeded payment steps of completed transactions."""
    found: list[DomainEvent] = []
    for change in changes:
        for name, data in _of_change(change, wedding, paid):
            entry = EVENT_TYPES[name]
            found.append(
                DomainEvent(
                    type=name,
                    # Only what the catalogue promises.
                    data=entry.data.model_validate(data).model_dump(mode="json"),
                    sequence=change.id,
                    wedding_id=wedding.id,
                    useful_until=wedding.ceremony.instant if entry.ends_with_the_day else None,
                )
            )
    return found


def _of_change(
    change: Change, wedding: WeddingFacts, paid: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    if change.kind == "wedding":
        yield from _of_wedding(change, wedding)
    elif change.kind == "transaction":
        yield from _of_transaction(change, paid)
    elif not change.data.get("reminder"):
        yield from _of_step(change.data, change.previous or {})


def _of_wedding(change: Change, wedding: WeddingFacts) -> Iterator[tuple[str, dict[str, Any]]]:
    data = {**change.data, "reference": wedding.reference}
    if change.previous is None:
        yield "wedding.created", data
        yield "client.created", data
    elif change.previous != change.data:
        yield "wedding.updated", data
    if wedding.previous_ceremony is not None:
        yield (
            "timeline.changed",
            {"id": wedding.id, "ceremony": wedding.ceremony, "previous": wedding.previous_ceremony},
        )


def _of_transaction(
    change: Change, paid: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    status = change.data["status"]
    if change.previous is not None and change.previous["status"] == status:
        return
    yield f"transaction.{'started' if status == _STARTED else status}", change.data
    if status == "completed":
        for step in paid.get(change.data["id"], ()):
            yield "payment.completed", step


def _of_step(data: dict[str, Any], previous: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    status = data["status"]
    if status != previous.get("status"):
        if status in _STEP_STATUSES:
            yield f"step.{status}", data
        if status == "succeeded":
            if data.get("fallback_used"):
                yield "vendor.failed_over", data
            if data["capability"] == "payments":
                yield "payment.captured", data
            elif data["capability"] == "booking":
                yield "booking.confirmed", data
    if _undo(data) == "undone" != _undo(previous):
        yield "step.undone", data
        if data["capability"] == "payments":
            yield "payment.refunded", data


def _undo(data: Mapping[str, Any]) -> str | None:
    return (data.get("compensation") or {}).get("status")
