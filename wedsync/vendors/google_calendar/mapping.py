"""Translates between our event and Google's Event resource. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import JsonValue

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
)
from wedsync.domain.vendors.action_inputs import CalendarEvent, Moment
from wedsync.domain.vendors.calendars import changed_fields
from wedsync.domain.vendors.call import Call, Effect, content_digest
from wedsync.domain.vendors.read_inputs import calendar_event_of, fact_of, previous_calendar_event_of

#: What events may be called: base32hex (RFC 4648, section 7), 5 to 1024 characters.
_EVENT_ID = re.compile(r"[a-v0-9]{5,1024}")
_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")
_REFERENCE = "wedsync_reference"
_THROTTLED = frozenset(("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "calendarUsageLimitExceeded"))
_NOT_AUTHORIZED = frozenset(("authError", "insufficientPermissions", "requiredAccessLevel", "accessNotConfigured"))


def when(moment: Moment) -> dict[str, JsonValue]:
    """Build an EventDateTime: wall time and zone; with the offset only where the wall time alone has two meanings."""
    try:
        wall = datetime.fromisoformat(moment.local).replace(tzinfo=ZoneInfo(moment.zone))
    except (ValueError, KeyError, OSError):
        raise InvalidInput("a time of the event is malformed", field="inputs.starts") from None
    text = wall.replace(tzinfo=None).isoformat(timespec="seconds")
    if wall.replace(fold=1).utcoffset() != wall.utcoffset():
        text += _offset(wall.replace(tzinfo=None) - moment.instant.astimezone(UTC).replace(tzinfo=None))
    return {"dateTime": text, "timeZone": moment.zone}


def _offset(east: timedelta) -> str:
    minutes = round(abs(east).total_seconds() / 60)
    return f"{'-' if east < timedelta() else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def _fields(event: CalendarEvent) -> dict[str, JsonValue]:
    """Build the fields of an event that we set, empty values too."""
    attendees: list[JsonValue] = []
    for index, person in enumerate(event.attendees):
        if not person.email or "@" not in person.email:
            raise InvalidInput("an attendee has no email address", field=f"inputs.attendees.{index}.email")
        attendees.append({"email": person.email, "displayName": person.name})
    return {
        "summary": event.title,
        "start": when(event.starts),
        "end": when(event.ends),
        "location": event.place,
        "description": event.notes,
        "attendees": attendees,
    }


def insert_body(call: Call) -> dict[str, JsonValue]:
    """Build the body of events.insert; raises InvalidInput."""
    if not _EVENT_ID.fullmatch(call.reference):
        raise InvalidInput("the reference can't be an event's id", field="reference")
    fields = {name: value for name, value in _fields(calendar_event_of(call.inputs)).items() if value}
    private: dict[str, JsonValue] = {
        "wedding_id": call.wedding_id,
        "step_id": call.step_id,
        _REFERENCE: call.reference,
    }
    return {"id": call.reference, **fields, "extendedProperties": {"private": private}}


def patch_body(call: Call) -> dict[str, JsonValue]:
    """Build the body of events.patch, which replaces each field that it has; raises InvalidInput."""
    before = previous_calendar_event_of(call)
    return changed_fields(_fields(calendar_event_of(call.inputs)), _fields(before) if before else None)


def notify(*events: CalendarEvent | None) -> str:
    """Return `sendUpdates`: notify everybody when there is anybody to notify."""
    return "all" if any(event.attendees for event in events if event is not None) else "none"


def event_id(call: Call) -> str:
    """Return the event id from the call's facts; without facts our reference, which is the id that we give."""
    return fact_of(call, "event_id") or call.reference


def is_ours(event: Any, call: Call) -> bool:
    """Tell whether an event stands and was made by this very call."""
    if not isinstance(event, dict) or is_cancelled(event):
        return False
    extended = event.get("extendedProperties")
    private = extended.get("private") if isinstance(extended, dict) else None
    return isinstance(private, dict) and private.get(_REFERENCE) == call.reference


def is_cancelled(event: Any) -> bool:
    """Tell whether Google keeps the event as deleted."""
    return isinstance(event, dict) and event.get("status") == "cancelled"


def effect_of(event: Any, action: str) -> Effect:
    """Turn an Event resource into an effect.

    Raises OutcomeUnknown when the answer is not an event (Google did act), VendorRejected when it is a deleted one.
    """
    found = event.get("id") if isinstance(event, dict) else None
    if not isinstance(found, str) or not found:
        raise OutcomeUnknown("google_calendar answered with something that is not an event", vendor="google_calendar")
    if is_cancelled(event):
        raise VendorRejected("google_calendar: the event was deleted", vendor="google_calendar", reason="deleted")
    facts: dict[str, JsonValue] = {"event_id": found}
    if isinstance(event.get("htmlLink"), str):
        facts["link"] = event["htmlLink"]
    etag = event.get("etag")
    return Effect(
        state="done",
        external_id=found,
        facts=facts,
        etag=etag if isinstance(etag, str) else None,
        content=_content(event),
        detail=f"event {found} {action}",
    )


def _content(event: dict[str, Any]) -> str:
    """Fingerprint what people see of an event, less who comes: guests answer and invite others."""
    fields = {name: str(event.get(name) or "") for name in ("summary", "location", "description")}
    times = {name: _instant(event.get(name)) for name in ("start", "end")}
    return content_digest({**fields, **times})


def _instant(when: Any) -> str:
    """Write a time in UTC, in whichever zone Google shows it; a whole day as its date."""
    text = str(when.get("dateTime") or when.get("date") or "") if isinstance(when, dict) else ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.astimezone(UTC).isoformat() if moment.tzinfo else text


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(reason, detail)` of `{error: {errors: [{reason}], status, message}}`; the message is left out."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        errors = error.get("errors")
        first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
        for word in (first.get("reason"), error.get("status")):
            if isinstance(word, str) and _WORD.fullmatch(word):
                return word, f"refused with {word}"
    return f"http_{status}", f"answered {status}"


def reread(error: VendorRejected, retry_after_seconds: float) -> VendorError:
    """Return the error that `error` really is: Google throttles and refuses credentials with 403 too.

    https://developers.google.com/workspace/calendar/api/guides/errors
    """
    if error.status != 403:
        return error
    if error.reason in _THROTTLED:
        return VendorThrottled(
            error.detail,
            vendor=error.vendor,
            reason=error.reason,
            status=error.status,
            retry_after_seconds=retry_after_seconds,
        )
    if error.reason in _NOT_AUTHORIZED:
        return NotAuthorized(error.detail, vendor=error.vendor, reason=error.reason, status=error.status)
    return error
