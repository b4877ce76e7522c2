"""Translates between our calendar event and Graph's. Pure.

Times are sent in UTC: Graph knows only a part of the IANA zones by name, and Outlook shows each person their own zone.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import OutcomeUnknown
from wedsync.domain.vendors.action_inputs import CalendarEvent, Moment
from wedsync.domain.vendors.calendars import changed_fields
from wedsync.domain.vendors.call import Call, Effect, content_digest
from wedsync.domain.vendors.read_inputs import calendar_event_of, needed_fact_of, previous_calendar_event_of

#: Our own extended property: what an event is found by, whatever becomes of its id.
PROPERTY_ID = "String {3f2c6f4e-8d0b-4f5c-9d61-5b7f1c0a7e21} Name wedsync-reference"


def _moment(moment: Moment) -> dict[str, JsonValue]:
    instant = moment.instant.astimezone(UTC).replace(tzinfo=None)
    return {"dateTime": instant.isoformat(timespec="seconds"), "timeZone": "UTC"}


def fields(event: CalendarEvent) -> dict[str, JsonValue]:
    """Build an event's fields; attendees without an email address can't be invited."""
    attendees: list[JsonValue] = [
        {"emailAddress": {"address": person.email, "name": person.name}, "type": "required"}
        for person in event.attendees
        if person.email
    ]
    return {
        "subject": event.title,
        "body": {"contentType": "text", "content": event.notes},
        "start": _moment(event.starts),
        "end": _moment(event.ends),
        "location": {"displayName": event.place},
        "attendees": attendees,
    }


def create_body(call: Call) -> dict[str, JsonValue]:
    """Build the body of `POST .../events`."""
    return {
        **fields(calendar_event_of(call.inputs)),
        "transactionId": call.reference,
        "singleValueExtendedProperties": [{"id": PROPERTY_ID, "value": call.reference}],
    }


def change_body(call: Call) -> dict[str, JsonValue]:
    """Build the body of `PATCH .../events/{id}`, which replaces each field that it has."""
    before = previous_calendar_event_of(call)
    return changed_fields(fields(calendar_event_of(call.inputs)), fields(before) if before else None)


def reference_filter(reference: str) -> str:
    """Build the OData filter for events that carry our reference."""
    value = reference.replace("'", "''")
    return f"singleValueExtendedProperties/Any(ep: ep/id eq '{PROPERTY_ID}' and ep/value eq '{value}')"


def event_id(call: Call) -> str:
    """Return the event's id from the call's facts; raises InvalidInput."""
    return needed_fact_of(call, "event_id")


def effect(body: Any) -> Effect:
    """Turn an event into an effect; raises OutcomeUnknown when the answer is none (Graph did act)."""
    known = body.get("id") if isinstance(body, dict) else None
    if not isinstance(known, str) or not known:
        raise OutcomeUnknown("microsoft_graph answered without an event", vendor="microsoft_graph")
    if body.get("isCancelled") is True:
        return Effect(state="absent", external_id=known, detail="the event is cancelled")
    link, etag = body.get("webLink"), body.get("@odata.etag")
    return Effect(
        state="done",
        external_id=known,
        facts={"event_id": known, "link": link if isinstance(link, str) else ""},
        etag=etag if isinstance(etag, str) else None,
        content=_content(body),
        detail="event on the calendar",
    )


def _content(body: dict[str, Any]) -> str | None:
    """Fingerprint what people see of an event, less who comes and less the text, which Graph rewrites as HTML."""
    location, times = body.get("location"), [body.get("start"), body.get("end")]
    if not all(isinstance(one, dict) and one.get("timeZone") == "UTC" for one in times):
        return None
    place = str(location.get("displayName") or "") if isinstance(location, dict) else ""
    # Fractions of a second come and go.
    starts, ends = (str(one.get("dateTime") or "")[:19] for one in times if isinstance(one, dict))
    return content_digest({"subject": str(body.get("subject") or ""), "place": place, "starts": starts, "ends": ends})


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{"error": {"code", "message"}}`; the message may name mailboxes and is left out."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isalnum() and len(code) <= 80:
        return code, f"refused with {code}"
    return f"http_{status}", f"answered {status}"
