"""Examples in the OpenAPI file; a test sends each of them."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example

PLAN: dict[str, Any] = {
    "version": 1,
    "wedding": {
        "id": "elopement-varenna",
        "couple": ["Giulia Ferrari", "Tom Becker"],
        "ceremony": {"at": "2027-06-19T16:00", "zone": "Europe/Rome", "place": "Villa Aurora, Varenna"},
        "locale": "it-IT",
        "currency": "EUR",
        "contacts": [
            {
                "id": "couple",
                "name": "Giulia Ferrari",
                "email": "giulia.ferrari@example.com",
                "instruments": {"stripe": "pm_card_visa"},
            }
        ],
    },
    "services": [
        {"id": "villa-aurora", "name": "Villa Aurora", "role": "venue", "vendor": "generic", "critical": True},
        {"id": "payments", "name": "Deposits", "role": "planning", "vendor": "stripe", "critical": True},
    ],
    "steps": [
        {
            "id": "venue",
            "action": "booking.request",
            "service": "villa-aurora",
            "window": "ceremony",
            "inputs": {
                "title": "Ceremony for ${wedding.couple}",
                "starts": "2027-06-19T16:00",
                "minutes": 180,
                "guests": 2,
                "contact": "couple",
                "price": "2400.00",
            },
        },
        {
            "id": "deposit",
            "action": "payments.collect",
            "service": "payments",
            "needs": ["venue"],
            "inputs": {"amount": "600.00", "payer": "couple", "description": "Deposit, booking ${venue.reference}"},
        },
    ],
}

#: The request body of the endpoints that take a plan.
PLAN_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Plan"},
                "examples": {"elopement": {"summary": "Two services, two steps", "value": PLAN}},
            },
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}

REQUESTED: dict[str, Example] = {
    "orchestrate": {"summary": "Book what is due", "value": {"kind": "orchestrate"}},
    "timeline": {"summary": "Move the ceremony", "value": {"kind": "timeline", "ceremony_at": "2027-06-26T16:00"}},
}

DECIDED: dict[str, Example] = {
    "retry": {"summary": "Try it again", "value": {"choice": "retry"}},
    "use": {"summary": "Go to another vendor", "value": {"choice": "use", "vendor": "paypal"}},
    "rollback": {"summary": "Undo its transaction", "value": {"choice": "rollback"}},
}
