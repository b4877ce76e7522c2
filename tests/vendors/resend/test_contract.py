"""Whatever the client sends and the stand-in answers is valid under Resend's published API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox

VISIBLE = st.characters(exclude_categories=["Cs", "Cc"])
SUBJECTS = st.text(VISIBLE, min_size=1, max_size=900).filter(lambda text: text.strip())
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3000)
ADDRESSES = st.sampled_from(["ada@example.com", "o'neil+rsvp@example.co.uk", "名前@例え.jp"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=SUBJECTS, text=TEXTS, address=ADDRESSES, sender=st.sampled_from(["", "Villa <weddings@villa.example>"]))
async def test_every_send_and_look_fits_the_contract(
    sandbox: EmbeddedSandbox,
    make_call: Callable[..., Call],
    assert_contract: Callable[..., Any],
    subject: str,
    text: str,
    address: str,
    sender: str,
) -> None:
    await sandbox.reset()
    await sandbox.webhook_policy("resend", muted=True)
    client = sandbox.client("resend", account_id=sender)
    inputs = {"to": {"id": "ada", "name": "Ада", "email": address}, "subject": subject, "text": text}
    effect = await client.send(make_call("resend", "email.send", "send_email", inputs))
    await client.inspect(make_call("resend", "email.send", "send_email", inputs, facts=effect.facts))
    assert await assert_contract("resend", "resend", responses=True) == 2
