"""Whatever the client sends and the stand-in answers is valid under Twilio's published API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox

SENDERS = st.sampled_from(["+15005550006", "MG" + "2c" * 16, "WEDSYNC"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1600).filter(lambda text: text.strip())
PHONES = st.sampled_from(["+393331234567", "+819012345678", "+14155550123", "+447700900123"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXTS, phone=PHONES, sender=SENDERS, webhook_url=st.sampled_from(["", "https://studio.example/hooks/twilio"])
)
async def test_every_send_and_look_fits_the_contract(
    sandbox: EmbeddedSandbox,
    make_call: Callable[..., Call],
    assert_contract: Callable[..., Any],
    text: str,
    phone: str,
    sender: str,
    webhook_url: str,
) -> None:
    await sandbox.reset()
    await sandbox.webhook_policy("twilio", muted=True)
    client = sandbox.client("twilio", account_id="AC" + "0a" * 16, client_id=sender, webhook_url=webhook_url)
    inputs = {"to": {"id": "ada", "name": "Ада", "phone": phone}, "text": text}
    effect = await client.send(make_call("twilio", "sms.send", "send_message", inputs))
    await client.inspect(make_call("twilio", "sms.send", "send_message", inputs, facts=effect.facts))
    assert await assert_contract("twilio", "twilio", responses=True) == 2
