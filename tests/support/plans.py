"""Builds small plans for tests, written in a few words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Plan

#: Far enough ahead that nothing of a plan is past, near enough for a calendar.
CEREMONY = (datetime.now(UTC) + timedelta(days=200)).strftime("%Y-%m-%dT16:00")

_SERVICES: dict[str, dict[str, Any]] = {
    "villa": {"role": "venue", "vendor": "generic", "critical": True},
    "caterer": {"role": "catering", "vendor": "generic"},
    "florist": {"role": "florals", "vendor": "generic"},
    "studio": {"role": "photography", "vendor": "vsco"},
    "pay": {"role": "planning", "vendor": "stripe", "fallbacks": ["paypal"], "critical": True},
    "cal": {"role": "planning", "vendor": "google_calendar"},
    "mail": {"role": "planning", "vendor": "resend"},
    "post": {"role": "planning", "vendor": "sendgrid"},
    "text": {"role": "planning", "vendor": "twilio"},
    **{
        name: {"role": "other", "vendor": name.replace("-", "_")}
        for name in ("replayer", "finder", "gambler", "slowcoach", "harmless", "paper", "half-paper")
    },
    "weather": {"role": "other", "vendor": "open_meteo"},
}


def booking(step_id: str, service: str = "villa", **more: Any) -> dict[str, Any]:
    """Return a step that books a business."""
    inputs = {"title": "Wedding", "starts": "ceremony", "minutes": 120, "guests": 2, "contact": "couple"}
    return _step(step_id, "booking.request", service, inputs, more)


def payment(step_id: str = "deposit", amount: str = "600.00", **more: Any) -> dict[str, Any]:
    """Return a step that takes money, by Stripe or else PayPal."""
    return _step(step_id, "payments.collect", "pay", {"amount": amount, "payer": "couple"}, more)


def event(step_id: str = "event", starts: str = "ceremony - 2h", **more: Any) -> dict[str, Any]:
    """Return a step that puts an event on the calendar."""
    return _step(step_id, "calendar.create_event", "cal", {"title": "Portraits", "starts": starts}, more)


def email(step_id: str = "email", service: str = "mail", text: str = "You are booked.", **more: Any) -> dict[str, Any]:
    """Return a step that sends an email."""
    return _step(step_id, "email.send", service, {"to": "couple", "subject": "News", "text": text}, more)


def sms(step_id: str = "sms", text: str = "You are booked.", **more: Any) -> dict[str, Any]:
    """Return a step that sends a text message."""
    return _step(step_id, "sms.send", "text", {"to": "couple", "text": text}, more)


def _step(step_id: str, action: str, service: str, inputs: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {"id": step_id, "action": action, "service": service, **more, "inputs": {**inputs, **more.get("inputs", {})}}


def plan(
    *steps: dict[str, Any],
    ceremony: str = CEREMONY,
    zone: str = "Europe/Rome",
    services: dict[str, dict[str, Any]] | None = None,
    contacts: list[dict[str, Any]] | None = None,
    ends_after: str = "2d",
    **more: Any,
) -> Plan:
    """Return a plan of these steps; `services` adds services or changes some of the usual ones."""
    usual = {name: {**values, **(services or {}).get(name, {})} for name, values in _SERVICES.items()}
    every = {**usual, **{name: values for name, values in (services or {}).items() if name not in _SERVICES}}
    couple = {
        "id": "couple",
        "name": "Giulia Ferrari",
        "email": "giulia.ferrari@example.com",
        "phone": "+390318125551",
        "instruments": {"stripe": "pm_card_visa", "paypal": "8kk845ge2n6612"},
    }
    used = {step.get("service") for step in steps} | {name for step in steps for name in step.get("services", ())}
    found, errors = plan_from_json(
        {
            "version": 1,
            "wedding": {
                "id": "w-1",
                "couple": ["Giulia Ferrari", "Tom Becker"],
                "ceremony": {"at": ceremony, "zone": zone, "place": "Villa Aurora"},
                "currency": "EUR",
                "ends_after": ends_after,
                "contacts": contacts or [couple],
            },
            "services": [{"id": name, "name": name, **every[name]} for name in every if name in used],
            "steps": list(steps),
            **more,
        }
    )
    assert found is not None, errors
    return found
