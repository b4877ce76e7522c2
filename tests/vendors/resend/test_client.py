"""The client against the stand-in, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.errors import to_application_error
from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
)
from wedsync.domain.vendors.call import Call
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.resend import mapping

ACCOUNT: dict[str, Any] = {"account_id": "Villa Aurora <weddings@villa.example>", "api_key": "re_123"}


@pytest.fixture
async def client(sandbox: EmbeddedSandbox) -> VendorClient:
    await sandbox.webhook_policy("resend", muted=True)
    return sandbox.client("resend", **ACCOUNT)


@pytest.fixture
def email(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(
        subject: str = "You are booked", text: str = "See you.", address: str | None = "ada@example.com", **fields: Any
    ) -> Call:
        person = {"id": "ada", "name": "Ada", "email": address}
        inputs = {"to": person, "subject": subject, "text": text}
        return make_call("resend", "email.send", "send_email", inputs, **fields)

    return make


async def test_a_sent_email_is_done_and_stands_in_the_ledger(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    effect = await client.send(email())
    (entry,) = await sandbox.ledger("resend")
    assert effect.state == "done"
    assert effect.external_id == effect.facts["message_id"] == entry["object_id"]
    assert (entry["operation"], entry["idempotency_key"]) == ("send_email", "key-send_email")


async def test_the_body_names_sender_recipient_wedding_and_step(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    await client.send(email("Grüße 💐"))
    (request,) = await sandbox.requests("resend")
    assert json.loads(base64.b64decode(request["body_base64"])) == {
        "from": "Villa Aurora <weddings@villa.example>",
        "to": ["ada@example.com"],
        "subject": "Grüße 💐",
        "text": "See you.",
        "tags": [{"name": "wedding", "value": "wedding-1"}, {"name": "step", "value": "step-1"}],
    }
    assert request["headers"]["authorization"] == "Bearer re_123"


async def test_without_a_sender_resends_own_test_sender_is_used(
    sandbox: EmbeddedSandbox, email: Callable[..., Call]
) -> None:
    await sandbox.client("resend", account_id="").send(email())
    (request,) = await sandbox.requests("resend")
    assert json.loads(base64.b64decode(request["body_base64"]))["from"] == "Wedsync <onboarding@resend.dev>"


async def test_an_email_whose_answer_was_lost_is_replayed_and_sent_once(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    await sandbox.faults("resend", mode="commit_then_drop", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(email())
    effect = await client.send(email())
    (entry,) = await sandbox.ledger("resend")
    assert effect.external_id == entry["object_id"]
    first, second = await sandbox.requests("resend")
    assert first["body_base64"] == second["body_base64"]


async def test_attempts_at_once_under_one_key_send_once(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    effects = await asyncio.gather(*(client.send(email()) for _ in range(5)))
    assert len({effect.external_id for effect in effects}) == 1
    assert len(await sandbox.ledger("resend")) == 1


async def test_a_key_with_another_body_is_refused(client: VendorClient, email: Callable[..., Call]) -> None:
    await client.send(email())
    with pytest.raises(VendorRejected) as caught:
        await client.send(email(text="Another text."))
    assert (caught.value.reason, caught.value.status) == ("invalid_idempotent_request", 409)


async def test_a_key_is_forgotten_after_24_hours(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    await client.send(email())
    await sandbox.set_clock((datetime.now(UTC) + timedelta(hours=24, minutes=1)).isoformat())
    await client.send(email())
    assert len(await sandbox.ledger("resend")) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"address": None}, "inputs.to.email"),
        ({"address": "ada"}, "inputs.to.email"),
        ({"address": "Ada <ada@example.com>"}, "inputs.to.email"),
        ({"address": "a@example.com, b@example.com"}, "inputs.to.email"),
        ({"subject": ""}, "inputs.subject"),
        ({"subject": "Hi\r\nBcc: eve@example.com"}, "inputs.subject"),
    ],
)
async def test_a_faulty_email_is_refused_before_it_is_sent(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.send(email(**fields))
    assert caught.value.field == field
    assert await sandbox.requests("resend") == []


async def test_other_inputs_are_invalid(client: VendorClient, make_call: Callable[..., Call]) -> None:
    with pytest.raises(InvalidInput):
        await client.send(make_call("resend", "email.send", "send_email", {"text": "x"}))
    with pytest.raises(InvalidInput):
        await client.send(make_call("resend", "email.send", "unsend"))


@pytest.mark.parametrize("api_key", ["", "re_invalid"])
async def test_a_missing_or_invalid_key_is_not_authorized(
    sandbox: EmbeddedSandbox, email: Callable[..., Call], api_key: str
) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("resend", **{**ACCOUNT, "api_key": api_key}).send(email())


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        ("concurrent_idempotent_requests", 409, OutcomeUnknown),
        ("daily_quota_exceeded", 429, NotAuthorized),
        ("monthly_quota_exceeded", 429, NotAuthorized),
        ("invalid_api_key", 403, NotAuthorized),
        ("validation_error", 403, VendorRejected),
    ],
)
def test_resends_own_words_decide_over_the_status(reason: str, status: int, kind: type[VendorError]) -> None:
    reread = mapping.reread(VendorRejected("resend: refused", vendor="resend", reason=reason, status=status))
    assert type(reread) is kind
    assert (reread.reason, reread.status, reread.vendor) == (reason, status, "resend")


@pytest.mark.parametrize("reason", ["daily_quota_exceeded", "monthly_quota_exceeded"])
def test_a_full_quota_leaves_an_earlier_attempt_unknown_and_does_not_wait_for_a_day(reason: str) -> None:
    throttled = VendorThrottled("resend: refused", vendor="resend", reason=reason, status=429, retry_after_seconds=1)
    (failure,) = to_application_error(mapping.reread(throttled)).details
    # Only the vendor's no to the very call would settle what became of the attempt before.
    assert failure.code != "vendor_rejected"
    assert (failure.passing, failure.unknown, failure.reason) == (False, False, reason)


def test_an_errors_detail_repeats_nothing_that_may_name_a_guest() -> None:
    body = {"statusCode": 422, "name": "validation_error", "message": "Invalid `to` field: ada@example.com"}
    assert mapping.read_error(422, body) == ("validation_error", "refused with validation_error")
    assert mapping.read_error(502, None) == ("http_502", "answered 502")


async def test_look_tells_what_became_of_the_email(
    sandbox: EmbeddedSandbox, client: VendorClient, email: Callable[..., Call]
) -> None:
    effect = await client.send(email())
    assert (await client.inspect(email(facts=effect.facts))).state == "done"
    assert (await client.inspect(email(facts={"message_id": "unknown"}))).state == "absent"
    await sandbox.webhook("resend", "email.bounced", effect.external_id)
    with pytest.raises(VendorRejected) as caught:
        await client.inspect(email(facts=effect.facts))
    assert caught.value.reason == "bounced"
    with pytest.raises(InvalidInput):
        await client.inspect(email())


async def test_an_email_can_not_be_looked_up_by_reference(client: VendorClient, email: Callable[..., Call]) -> None:
    with pytest.raises(InvalidInput):
        await client.find(email())
