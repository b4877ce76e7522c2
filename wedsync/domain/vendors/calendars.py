"""What calendars have in common: what of an event a change touches, and an event that is gone. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from wedsync.domain.vendors.call import Effect

#: A deleted event is 410 for a while, then 404.
GONE_STATUSES = (404, 410)


def changed_fields(wanted: Mapping[str, JsonValue], before: Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
    """Return the fields to send: the times, and what else differs from before; all when nobody knows what was before.

    What is left out stays as people made it: their guests, their answers, the block by which they join a call.
    """
    return {
        name: value
        for name, value in wanted.items()
        if before is None or name in ("start", "end") or before[name] != value
    }


def event_gone(event_id: str) -> Effect:
    """Return the effect of an event that is not there, or not any more."""
    return Effect(state="absent", external_id=event_id, detail="no such event")
