"""What every vendor folder keeps, for each vendor that a manifest names."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module, resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import (
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.registry import load_registry

REGISTRY = load_registry()
VENDORS = sorted(REGISTRY.manifests)
WITH_API = [name for name in VENDORS if REGISTRY.manifest(name).has_api]
WITH_WEBHOOKS = [name for name in VENDORS if REGISTRY.webhook(name) is not None]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
STARTS = datetime(2027, 6, 19, 14, tzinfo=UTC)

#: Vendors whose accounts have a shape of their own; the others take the sandbox's.
ACCOUNTS: dict[str, dict[str, Any]] = {
    "google_calendar": {"account_id": "primary"},
    "resend": {"account_id": "Villa Aurora <weddings@villa.example>"},
    "sendgrid": {"account_id": "Villa Aurora <weddings@villa.example>"},
    "twilio": {"account_id": "AC" + "0" * 32, "client_id": "+15005550006", "webhook_url": ""},
    "vonage": {"api_key": "abcd1234", "client_secret": "Abcdef0123456789", "client_id": "Wedding"},
}
INSTRUMENTS = {"stripe": "pm_card_visa", "paypal": "8kk8451t"}


def _moment(at: datetime) -> dict[str, Any]:
    local = (at + timedelta(hours=2)).replace(tzinfo=None)
    return {"local": local.isoformat(timespec="seconds"), "zone": "Europe/Rome", "instant": at.isoformat()}


def _inputs(vendor: str, action: str) -> dict[str, Any]:
    """Valid inputs of an action; a new action of the catalogue needs a line here."""
    person = {"id": "ada", "name": "Ada", "email": "ada@example.com", "phone": "+393331234567"}
    span = {"title": "Ceremony", "starts": _moment(STARTS), "ends": _moment(STARTS + timedelta(hours=1))}
    money = {"price": "1500.00", "currency": "EUR", "price_minor": 150_000}
    payer = {**person, "instrument": INSTRUMENTS.get(vendor)}
    by_action: dict[str, dict[str, Any]] = {
        "booking.request": {**span, **money, "guests": 80, "contact": person},
        "calendar.create_event": span,
        "email.send": {"to": person, "subject": "Hello", "text": "See you."},
        "payments.collect": {
            "amount": "1500.00", "amount_minor": 150_000, "currency": "EUR", "payer": payer, "description": "Deposit",
        },
        "sms.send": {"to": person, "text": "See you."},
        "weather.forecast": {"latitude": 45.98, "longitude": 9.26},
    }  # fmt: skip
    return by_action[action]


def _first_operations(*, harmless: bool = True) -> list[Any]:
    """The operation that begins each action: it needs no facts of an earlier one; `harmless` ones only when asked."""
    return [
        pytest.param(name, action, action.operations[0], id=f"{name}-{action.operations[0].name}")
        for name in WITH_API
        for action in REGISTRY.manifest(name).actions
        if action.operations and (harmless or not action.operations[0].harmless)
    ]


each_first_operation = pytest.mark.parametrize(("vendor", "action", "operation"), _first_operations())
#: No stand-in refuses what only prepares.
each_first_effect = pytest.mark.parametrize(("vendor", "action", "operation"), _first_operations(harmless=False))


@pytest.fixture
def first_call(make_call: Callable[..., Call]) -> Callable[[str, ActionSpec, OperationSpec], Call]:
    def make(vendor: str, action: ActionSpec, operation: OperationSpec) -> Call:
        more = {"account": "villa-aurora"} if REGISTRY.manifest(vendor).endpoints else {}
        inputs = _inputs(vendor, action.name)
        return make_call(vendor, action.name, operation.name, inputs, first_sent_at=datetime.now(UTC), **more)

    return make


MakeFirst = Callable[[str, ActionSpec, OperationSpec], Call]


# -- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_operation_declares_how_an_unknown_outcome_is_resolved(vendor: str) -> None:
    text = resources.files("wedsync.vendors").joinpath(vendor, "manifest.toml").read_text(encoding="utf-8")
    undeclared = [
        (action["name"], operation["name"])
        for action in tomllib.loads(text)["actions"]
        for kind in ("operations", "undo_operations", "change_operations")
        for operation in action.get(kind, [])
        if "on_unknown" not in operation
    ]
    assert undeclared == []


@pytest.mark.parametrize("vendor", WITH_API)
def test_the_folder_has_a_client_that_speaks_the_protocol(vendor: str) -> None:
    client = REGISTRY.client_class(vendor)
    assert [name for name in ("send", "find", "inspect") if not callable(getattr(client, name, None))] == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_who_answers_later_has_webhooks(vendor: str) -> None:
    manifest = REGISTRY.manifest(vendor)
    forward = [spec for action in manifest.actions for spec in action.operations]
    assert vendor in WITH_WEBHOOKS or not any(spec.waits_for for spec in forward)


# -- the stand-in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", WITH_API)
def test_the_folder_has_a_stand_in(vendor: str) -> None:
    assert callable(import_module(f"wedsync.vendors.{vendor}.sandbox").build)


# -- the client -------------------------------------------------------------------------------------------------------


@each_first_operation
async def test_the_sandbox_mounts_a_stand_in_that_takes_the_call(
    sandbox: EmbeddedSandbox, first_call: MakeFirst, vendor: str, action: ActionSpec, operation: OperationSpec
) -> None:
    await sandbox.webhook_policy(vendor, muted=True)
    client = sandbox.client(vendor, **ACCOUNTS.get(vendor, {}))
    assert (await client.send(first_call(vendor, action, operation))).state in ("done", "waiting")


@each_first_operation
@pytest.mark.parametrize(
    ("fault", "family"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 7}, VendorThrottled),
    ],
    ids=["503", "429"],
)
async def test_a_call_that_was_not_processed_says_so_and_leaves_nothing(
    sandbox: EmbeddedSandbox,
    first_call: MakeFirst,
    vendor: str,
    action: ActionSpec,
    operation: OperationSpec,
    fault: dict[str, Any],
    family: type[VendorError],
) -> None:
    await sandbox.faults(vendor, **fault)
    with pytest.raises(family) as raised:
        await sandbox.client(vendor, **ACCOUNTS.get(vendor, {})).send(first_call(vendor, action, operation))
    assert await sandbox.ledger(vendor) == []
    # An error that is its own cause has no end when it is written into a workflow's history.
    assert raised.value.__cause__ is not raised.value


@each_first_effect
async def test_a_refusal_is_a_rejection(
    sandbox: EmbeddedSandbox, first_call: MakeFirst, vendor: str, action: ActionSpec, operation: OperationSpec
) -> None:
    await sandbox.faults(vendor, mode="refuse", operation=operation.name)
    with pytest.raises(VendorRejected) as raised:
        await sandbox.client(vendor, **ACCOUNTS.get(vendor, {})).send(first_call(vendor, action, operation))
    assert await sandbox.ledger(vendor) == []
    assert raised.value.__cause__ is not raised.value


@each_first_operation
@pytest.mark.parametrize("fault", [{"mode": "commit_then_drop"}, {"mode": "slow", "delay_ms": 5000}], ids=str)
async def test_a_write_without_an_answer_is_unknown_and_a_read_is_unavailable(
    sandbox: EmbeddedSandbox,
    first_call: MakeFirst,
    vendor: str,
    action: ActionSpec,
    operation: OperationSpec,
    fault: dict[str, Any],
) -> None:
    await sandbox.webhook_policy(vendor, muted=True)
    await sandbox.faults(vendor, operation=operation.name, **fault)
    client = sandbox.client(vendor, timeout_seconds=0.5, **ACCOUNTS.get(vendor, {}))
    with pytest.raises(VendorUnavailable if operation.read else OutcomeUnknown):
        await client.send(first_call(vendor, action, operation))


# -- webhooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", WITH_WEBHOOKS)
@settings(max_examples=40, deadline=None)
@given(
    body=st.binary(),
    url=st.text(),
    headers=st.dictionaries(st.text(), st.text(), max_size=4),
    secret=st.just("") | st.just("a secret that is not drawn"),
)
def test_garbage_is_no_authentic_webhook_and_never_raises(
    vendor: str, body: bytes, url: str, headers: dict[str, str], secret: str
) -> None:
    module = REGISTRY.webhook(vendor)
    assert module is not None
    assert module.verify(body, headers, url, [secret], NOW) is False
