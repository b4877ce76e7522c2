"""Whatever the client sends and the stand-in answers is valid under SendGrid's published API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import VendorError
from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox

VISIBLE = st.characters(exclude_categories=["Cs", "Cc"])
SUBJECTS = st.text(VISIBLE, min_size=1, max_size=900).filter(lambda text: text.strip())
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3000)
ADDRESSES = st.sampled_from(["ada@example.com", "o'neil+rsvp@example.co.uk", "名前@例え.jp"])
SENDERS = st.sampled_from(["weddings@villa.example", "Villa Aurora <weddings@villa.example>"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=SUBJECTS, text=TEXTS, address=ADDRESSES, sender=SENDERS)
async def test_every_send_fits_the_contract(
    sandbox: EmbeddedSandbox,
    make_call: Callable[..., Call],
    assert_contract: Callable[..., Any],
    subject: str,
    text: str,
    address: str,
    sender: str,
) -> None:
    await sandbox.reset()
    await sandbox.webhook_policy("sendgrid", muted=True)
    client = sandbox.client("sendgrid", account_id=sender)
    inputs = {"to": {"id": "ada", "name": "Ада", "email": address}, "subject": subject, "text": text}
    await client.send(make_call("sendgrid", "email.send", "send_mail", inputs))
    assert await assert_contract("sendgrid", "sendgrid", responses=True) == 1


@pytest.mark.parametrize(
    ("headers", "mail", "status"),
    [
        ({}, {}, 401),
        ({"Authorization": "Bearer SG.1"}, {}, 400),
        ({"Authorization": "Bearer SG.1"}, [], 400),
        ({"Authorization": "Bearer SG.1"}, {"personalizations": [{"to": []}]}, 400),
        ({"Authorization": "Bearer SG.1"}, {"personalizations": [{"to": [{"email": "ada@example.com"}]}]}, 400),
    ],
)
async def test_the_stand_ins_refusals_fit_the_contract(
    sandbox: EmbeddedSandbox, assert_contract: Callable[..., Any], headers: dict[str, str], mail: Any, status: int
) -> None:
    with pytest.raises(VendorError) as caught:
        await sandbox.http("sendgrid").request("POST", "/v3/mail/send", json_body=mail, headers=headers)
    assert caught.value.status == status
    assert await assert_contract("sendgrid", "sendgrid", requests=False, responses=True) == 1
    assert await sandbox.ledger("sendgrid") == []
