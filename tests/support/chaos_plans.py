"""Plans for the long runs: every vendor once, with nothing that two weddings share."""

from __future__ import annotations

import json
from typing import Any

from wedsync.domain.plans.plan import Plan

_SERVICES: dict[str, dict[str, Any]] = {
    "villa": {"role": "venue", "vendor": "generic", "critical": True, "real_time_updates": True},
    "studio": {"role": "photography", "vendor": "vsco", "critical": True, "real_time_updates": True},
    "deposits": {"role": "planning", "vendor": "stripe", "fallbacks": ["paypal"], "critical": True},
    "balances": {"role": "planning", "vendor": "paypal", "critical": True},
    "diary": {"role": "planning", "vendor": "google_calendar", "critical": True},
    "office": {"role": "planning", "vendor": "microsoft_graph", "critical": True},
    "letters": {"role": "stationery", "vendor": "resend"},
    "texts": {"role": "planning", "vendor": "twilio", "fallbacks": ["vonage"]},
    "bulletins": {"role": "stationery", "vendor": "sendgrid"},
    "pings": {"role": "planning", "vendor": "vonage"},
}
_TIME = {"starts": "ceremony - 2h", "minutes": 120}
_STEPS: dict[str, dict[str, Any]] = {
    "venue": {
        "action": "booking.request",
        "service": "villa",
        "inputs": {"title": "The ceremony", **_TIME, "guests": 40, "contact": "couple", "price": "2400.00"},
    },
    "photos": {
        "action": "booking.request",
        "service": "studio",
        "inputs": {"title": "Portraits", **_TIME, "contact": "couple"},
    },
    "deposit": {
        "action": "payments.collect",
        "service": "deposits",
        "inputs": {"amount": "600.00", "payer": "couple", "description": "Deposit"},
    },
    "balance": {
        "action": "payments.collect",
        "service": "balances",
        "inputs": {"amount": "1800.00", "payer": "couple", "description": "Balance"},
    },
    "diary": {"action": "calendar.create_event", "service": "diary", "inputs": {"title": "Ceremony", **_TIME}},
    "office": {"action": "calendar.create_event", "service": "office", "inputs": {"title": "Ceremony", **_TIME}},
    "letter": {
        "action": "email.send",
        "service": "letters",
        "inputs": {"to": "couple", "subject": "You are booked", "text": "See you on ${wedding.date}."},
        "compensation": {"text": "The booking was undone."},
    },
    "text": {
        "action": "sms.send",
        "service": "texts",
        "inputs": {"to": "couple", "text": "You are booked."},
        "compensation": {"text": "The booking was undone."},
    },
    "bulletin": {
        "action": "email.send",
        "service": "bulletins",
        "inputs": {"to": "couple", "subject": "News", "text": "All is booked."},
        "compensation": {"text": "The booking was undone."},
    },
    "ping": {
        "action": "sms.send",
        "service": "pings",
        "inputs": {"to": "couple", "text": "All is booked."},
        "compensation": {"text": "The booking was undone."},
    },
}


def chaos_plan(number: int, needs: dict[str, list[str]], **changes: dict[str, Any]) -> Plan:
    """Return a plan with the steps that `needs` names, each after those it lists; `changes` override fields of steps.

    `number` makes the couple's phone and the businesses the wedding's own.
    """
    steps = [{"id": name, "needs": before, **_STEPS[name], **changes.get(name, {})} for name, before in needs.items()]
    services = [
        {"id": name, "name": name.title(), **({"account": f"villa-{number}"} if name == "villa" else {}), **body}
        for name, body in _SERVICES.items()
        if name in {step["service"] for step in steps}
    ]
    contact = {
        "id": "couple",
        "name": "Giulia Ferrari",
        "email": f"couple-{number}@example.com",
        "phone": f"+39348{number:07d}",
        "instruments": {"stripe": "pm_card_visa", "paypal": "8kk845ge2n6612"},
    }
    body = {
        "version": 1,
        "wedding": {
            "id": f"chaos-{number}",
            "couple": ["Giulia Ferrari", "Tom Becker"],
            "ceremony": {"at": "2027-06-19T16:00", "zone": "Europe/Rome", "place": "Varenna"},
            "currency": "EUR",
            "contacts": [contact],
        },
        "services": services,
        "steps": steps,
    }
    return Plan.model_validate_json(json.dumps(body))


#: Every vendor, one after the other; each wait for a vendor event splits it into several transactions.
ALL_IN_A_ROW: dict[str, list[str]] = {
    "venue": [],
    "photos": ["venue"],
    "deposit": ["photos"],
    "balance": ["deposit"],
    "diary": ["balance"],
    "office": ["diary"],
    "letter": ["office"],
    "text": ["letter"],
    "bulletin": ["text"],
    "ping": ["text"],
}
#: Steps whose vendor can neither replay nor find.
UNSAFE = frozenset({"bulletin", "ping"})
