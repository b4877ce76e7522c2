"""Translates between our booking and a studio's job with its session on the calendar. Pure.

A job has a date only; the session's hours are an event of the job. The couple's contact goes into the job's notes:
an address book entry could be found again by email address alone, which is no reference of ours.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from wedsync.domain.vendors.action_inputs import Booking
from wedsync.domain.vendors.call import Call
from wedsync.domain.vendors.read_inputs import booking_of, needed_fact_of

#: Longest name of an event (contract: Event.name).
EVENT_NAME_LENGTH = 255
_BOOKED = ("booked", "fulfillment", "completed")


def mapping_url(webhook_url: str, wedding_id: str) -> str:
    """Return where the wedding is on our side: an external mapping needs a URL of 12 to 255 characters."""
    parts = urlsplit(webhook_url)
    origin = f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else "https://wedsync.invalid"
    return f"{origin}/api/v1/weddings/{wedding_id}"


def external_mappings(call: Call, webhook_url: str) -> list[JsonValue]:
    """Build the mapping with our reference, by which the object is found again."""
    return [{"id": call.reference, "url": mapping_url(webhook_url, call.wedding_id)}]


def job_fields(booking: Booking) -> dict[str, JsonValue]:
    """Build what a job says of the booking, at creation and after a change."""
    contact = ", ".join(part for part in (booking.contact.name, booking.contact.email, booking.contact.phone) if part)
    notes = [f"Contact: {contact}"]
    if booking.price is not None:
        notes.append(f"Price: {booking.price} {booking.currency}")
    if booking.notes:
        notes.append(booking.notes)
    return {
        "name": booking.title,
        "eventDate": booking.starts.local[:10],
        "guestCount": booking.guests,
        "leadNotes": "\n".join(notes),
    }


def job_body(call: Call, webhook_url: str) -> dict[str, JsonValue]:
    """Build the body of `POST /job`: a booked job, or a lead when the studio is to answer later."""
    booking = booking_of(call)
    stage = "lead" if booking.answer == "webhook" else "booked"
    return {**job_fields(booking), "stage": stage, "externalMappings": external_mappings(call, webhook_url)}


def event_fields(booking: Booking) -> dict[str, JsonValue]:
    """Build the session in the venue's wall time; VSCO's zones are named as in the IANA database."""
    return {
        "name": booking.title[:EVENT_NAME_LENGTH],
        "channel": "InPerson",
        "startDate": booking.starts.local[:10],
        "startTime": _time(booking.starts.local),
        "endDate": booking.ends.local[:10],
        "endTime": _time(booking.ends.local),
        "timezoneName": booking.starts.zone,
    }


def event_body(call: Call, webhook_url: str) -> dict[str, JsonValue]:
    """Build the body of `POST /event`."""
    booking = booking_of(call)
    return {
        **event_fields(booking),
        "confirmed": booking.answer == "now",
        "jobId": needed_fact_of(call, "job_id"),
        "externalMappings": external_mappings(call, webhook_url),
    }


def _time(local: str) -> str:
    return f"{local[11:16]}:00"


def carries(item: Any, reference: str) -> bool:
    """Tell whether a listed object carries our reference; a list without mappings is taken as filtered."""
    mappings = item.get("externalMappings") if isinstance(item, dict) else []
    if mappings is None:
        return True
    return any(isinstance(mapping, dict) and mapping.get("id") == reference for mapping in mappings)


def is_booked(job: Any) -> bool:
    """Tell whether the studio has booked the job (past the stage `lead`)."""
    return isinstance(job, dict) and job.get("stage") in _BOOKED


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{type, title, detail, status}`; the detail repeats what was sent and is left out."""
    kind = body.get("type") if isinstance(body, dict) else None
    known = ("unknown", "quota-limit", "not-implemented", "validation-error")
    code = kind if kind in known[1:] else f"http_{status}"
    return code, f"answered {status} ({code})"
