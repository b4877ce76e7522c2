"""The stand-in refuses as SendGrid does."""

from __future__ import annotations

from typing import Any

import pytest

from wedsync.domain.errors import VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox

AUTH = {"Authorization": "Bearer SG.1"}
GOOD: dict[str, Any] = {
    "personalizations": [{"to": [{"email": "ada@example.com"}]}],
    "from": {"email": "weddings@villa.example"},
    "subject": "Hi",
    "content": [{"type": "text/plain", "value": "Hello"}],
}


def field_of(status: int, body: Any) -> tuple[str, str]:
    error = body["errors"][0]
    return error.get("field", ""), error["message"]


@pytest.fixture
async def http(sandbox: EmbeddedSandbox) -> VendorHttp:
    await sandbox.webhook_policy("sendgrid", muted=True)
    http = sandbox.http("sendgrid")
    http.read_error = field_of
    return http


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [{"to": [{"email": "ada"}]}]}, "personalizations.0.to.0.email"),
        ({"from": {"email": ""}}, "from"),
        ({"subject": ""}, "subject"),
        ({"content": []}, "content"),
        ({"content": [{"type": "text/plain", "value": ""}]}, "content.0.value"),
    ],
)
async def test_a_faulty_mail_is_refused_by_its_field(
    http: VendorHttp, sandbox: EmbeddedSandbox, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/v3/mail/send", json_body={**GOOD, **changes}, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == (field, 400)
    assert await sandbox.ledger("sendgrid") == []


async def test_the_same_mail_twice_is_two_mails(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    for _ in range(2):
        headers = {**AUTH, "Idempotency-Key": "k1"}
        response = await http.request("POST", "/v3/mail/send", json_body=GOOD, headers=headers)
        assert (response.status, response.body) == (202, b"")
        assert response.headers["x-message-id"]
    assert len(await sandbox.ledger("sendgrid")) == 2


async def test_a_broken_body_is_refused_and_a_read_is_not(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    with pytest.raises(VendorRejected):
        await http.request("POST", "/v3/mail/send", content=b"{", headers=AUTH)
    await sandbox.faults("sendgrid", mode="refuse")
    assert (await http.request("GET", "/v3/scopes", headers=AUTH)).status == 200
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/v3/mail/send", json_body=GOOD, headers=AUTH)
    assert caught.value.status == 403
