"""A small plan, small manifests, and shortcuts to what the plan language says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Plan, PlanError, PlannedStep
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import ActionSpec, AuthSpec, Manifest, OperationSpec

_VENDORS = {
    "stripe": ("payments.collect", "exact"),
    "paypal": ("payments.collect", "exact"),
    "twilio": ("sms.send", "counter"),
    "resend": ("email.send", "none"),
    "google_calendar": ("calendar.create_event", "exact"),
    "generic": ("booking.request", "exact"),
    "vsco": ("booking.request", "exact"),
    "open_meteo": ("weather.forecast", "none"),
    "shelf": ("storage.put", "none"),
    "zoomlike": ("video.create_meeting", "exact"),
    "chatter": ("chat.post", "counter"),
}


def _manifest(name: str, action: str, undo: Any) -> Manifest:
    spec = ActionSpec(
        name=action, undo=undo, operations=(OperationSpec(name="do"),), needs_instrument=action == "payments.collect"
    )
    return Manifest(
        name=name,
        title=name,
        capabilities=(action.partition(".")[0],),
        documentation_url="https://vendor.test",
        base_url="https://vendor.test",
        auth=AuthSpec(kind="none"),
        actions=(spec,),
    )


@pytest.fixture(scope="session")
def manifests() -> dict[str, Manifest]:
    """Vendors by name, one action each."""
    return {name: _manifest(name, action, undo) for name, (action, undo) in _VENDORS.items()}


@pytest.fixture
def data() -> dict[str, Any]:
    """A good plan as JSON: venue, deposit, event and email."""
    return {
        "version": 1,
        "wedding": {
            "id": "w-1",
            "couple": ["Ana", "Bo"],
            "ceremony": {"at": "2027-06-19T16:00", "zone": "Europe/Rome", "place": "Villa"},
            "currency": "EUR",
            "contacts": [
                {
                    "id": "ana",
                    "name": "Ana",
                    "email": "ana@example.com",
                    "phone": "+390318125551",
                    "instruments": {"stripe": "pm_1", "paypal": "v_1"},
                },
                {"id": "quiet", "name": "Nobody"},
            ],
        },
        "services": [
            {"id": "villa", "name": "Villa", "role": "venue", "vendor": "generic", "critical": True},
            {"id": "pay", "name": "Pay", "role": "other", "vendor": "stripe", "fallbacks": ["paypal"]},
            {"id": "cal", "name": "Cal", "role": "planning", "vendor": "google_calendar"},
            {"id": "mail", "name": "Mail", "role": "planning", "vendor": "resend"},
        ],
        "steps": [
            {
                "id": "venue",
                "action": "booking.request",
                "service": "villa",
                "inputs": {"title": "Wedding", "starts": "2027-06-19T16:00", "contact": "ana", "price": "100.00"},
            },
            {
                "id": "deposit",
                "action": "payments.collect",
                "service": "pay",
                "needs": ["venue"],
                "inputs": {"amount": "12.50", "payer": "ana", "description": "for ${venue.reference}"},
            },
            {
                "id": "event",
                "action": "calendar.create_event",
                "service": "cal",
                "inputs": {"title": "T", "starts": "ceremony - 2h", "attendees": ["ana"]},
            },
            {
                "id": "email",
                "action": "email.send",
                "service": "mail",
                "inputs": {"to": "ana", "subject": "S", "text": "paid ${deposit.amount_minor}"},
            },
        ],
    }


@pytest.fixture
def load() -> Callable[[dict[str, Any]], Plan]:
    """The plan in JSON that must be of good shape."""

    def read(data: dict[str, Any]) -> Plan:
        plan, errors = plan_from_json(data)
        assert plan is not None, errors
        return plan

    return read


@pytest.fixture
def errors_of(
    load: Callable[[dict[str, Any]], Plan], manifests: dict[str, Manifest]
) -> Callable[[dict[str, Any]], list[PlanError]]:
    """What `check_plan` says of JSON."""
    return lambda data: check_plan(load(data), manifests)


@pytest.fixture
def compiled(
    load: Callable[[dict[str, Any]], Plan], manifests: dict[str, Manifest]
) -> Callable[[dict[str, Any]], dict[str, PlannedStep]]:
    """The planned steps of JSON by id, in order."""
    return lambda data: {step.id: step for step in compile_plan(load(data), manifests)}
