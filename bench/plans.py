"""Plans of the weddings that are measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Plan

_CEREMONY = (datetime.now(UTC) + timedelta(days=200)).strftime("%Y-%m-%dT16:00")
_COUPLE = {
    "id": "couple",
    "name": "Giulia Ferrari",
    "email": "giulia.ferrari@example.com",
    "phone": "+390318125551",
}
_SERVICES = [
    {"id": "villa", "name": "Villa Aurora", "role": "venue", "vendor": "generic", "critical": True},
    {"id": "caterer", "name": "La Cucina", "role": "catering", "vendor": "generic"},
    {"id": "photographer", "name": "Chiara's calendar", "role": "photography", "vendor": "google_calendar"},
    {"id": "email", "name": "Email to the couple", "role": "planning", "vendor": "resend"},
    {"id": "sms", "name": "Text messages", "role": "planning", "vendor": "twilio"},
]
#: Whose stand-ins are called.
VENDORS = ("generic", "google_calendar", "resend", "twilio")
_BOOKING = {"starts": "ceremony", "minutes": 180, "guests": 2, "contact": "couple"}
_STEPS: list[dict[str, Any]] = [
    {
        "id": "venue",
        "action": "booking.request",
        "service": "villa",
        "inputs": {**_BOOKING, "title": "Ceremony for ${wedding.couple}", "price": "2400.00"},
    },
    {
        "id": "dinner",
        "action": "booking.request",
        "service": "caterer",
        "needs": ["venue"],
        "inputs": {**_BOOKING, "title": "Dinner for ${wedding.couple}", "price": "300.00"},
    },
    {
        "id": "photos",
        "action": "calendar.create_event",
        "service": "photographer",
        "needs": ["venue"],
        "inputs": {
            "title": "Elopement of ${wedding.couple}",
            "starts": "ceremony - 1h",
            "minutes": 240,
            "notes": "Villa's booking ${venue.reference}.",
        },
    },
    {
        "id": "confirmation",
        "action": "email.send",
        "service": "email",
        "needs": ["dinner", "photos"],
        "inputs": {
            "to": "couple",
            "subject": "Villa Aurora is yours: ${wedding.date}",
            "text": "Villa Aurora is booked for ${wedding.date} (reference ${venue.reference}).",
        },
    },
    {
        "id": "message",
        "action": "sms.send",
        "service": "sms",
        "needs": ["confirmation"],
        "inputs": {"to": "couple", "text": "Villa Aurora is booked. The details are in your email."},
        "delivery": "at_most_once",
    },
]


def elopement(reference: str) -> Plan:
    """Return a plan of five steps, seven vendor calls, each answered at once."""
    return _plan(reference, _STEPS)


def asleep(reference: str) -> Plan:
    """Return the same five steps, all of them due later: the wedding sleeps."""
    return _plan(reference, [{**step, "at": "ceremony - 30d"} for step in _STEPS])


def _plan(reference: str, steps: list[dict[str, Any]]) -> Plan:
    source: dict[str, Any] = {
        "version": 1,
        "wedding": {
            "id": reference,
            "couple": ["Giulia Ferrari", "Tom Becker"],
            "ceremony": {"at": _CEREMONY, "zone": "Europe/Rome", "place": "Villa Aurora, Varenna"},
            "currency": "EUR",
            "contacts": [_COUPLE],
        },
        "services": _SERVICES,
        "steps": steps,
    }
    plan, errors = plan_from_json(source)
    if plan is None:
        raise ValueError(f"the benchmark's plan is no plan: {errors}")
    return plan
