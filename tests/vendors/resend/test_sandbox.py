"""The stand-in refuses as Resend does."""

from __future__ import annotations

from typing import Any

import pytest

from wedsync.domain.errors import NotAuthorized, VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox

GOOD: dict[str, Any] = {"from": "V <w@villa.example>", "to": "ada@example.com", "subject": "Hi", "text": "Hello"}
AUTH = {"Authorization": "Bearer re_1"}


def name_of(status: int, body: Any) -> tuple[str, str]:
    assert body["statusCode"] == status
    return body["name"], body["message"]


@pytest.fixture
async def http(sandbox: EmbeddedSandbox) -> VendorHttp:
    await sandbox.webhook_policy("resend", muted=True)
    http = sandbox.http("resend")
    http.read_error = name_of
    return http


@pytest.mark.parametrize(
    ("changes", "status", "name"),
    [
        ({"from": None}, 422, "missing_required_field"),
        ({"to": []}, 422, "missing_required_field"),
        ({"subject": ""}, 422, "missing_required_field"),
        ({"text": ""}, 422, "missing_required_field"),
        ({"to": "ada"}, 422, "validation_error"),
        ({"from": "nobody"}, 422, "validation_error"),
        ({"to": ["a@example.com"] * 51}, 422, "validation_error"),
        ({"tags": [{"name": "wedding", "value": "a b"}]}, 422, "validation_error"),
        ({"tags": ["wedding"]}, 422, "validation_error"),
    ],
)
async def test_a_faulty_email_is_refused(
    http: VendorHttp, sandbox: EmbeddedSandbox, changes: dict[str, Any], status: int, name: str
) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/emails", json_body={**GOOD, **changes}, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == (name, status)
    assert await sandbox.ledger("resend") == []


@pytest.mark.parametrize("body", [b"{", b"[]"])
async def test_a_body_that_is_no_object_is_refused(http: VendorHttp, body: bytes) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/emails", content=body, headers=AUTH)
    assert caught.value.reason == "validation_error"


async def test_a_refused_email_is_not_remembered_under_its_key(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    headers = {**AUTH, "Idempotency-Key": "k1"}
    with pytest.raises(VendorRejected):
        await http.request("POST", "/emails", json_body={**GOOD, "to": "ada"}, headers=headers)
    await http.request("POST", "/emails", json_body=GOOD, headers=headers)
    assert len(await sandbox.ledger("resend")) == 1


async def test_a_key_of_more_than_256_characters_is_refused(http: VendorHttp) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/emails", json_body=GOOD, headers={**AUTH, "Idempotency-Key": "k" * 257})
    assert caught.value.reason == "invalid_idempotency_key"


async def test_without_a_key_nothing_is_told(http: VendorHttp) -> None:
    with pytest.raises(NotAuthorized) as caught:
        await http.request("GET", "/emails/1")
    assert caught.value.reason == "missing_api_key"


async def test_only_sends_are_refused_by_the_fault(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    await sandbox.faults("resend", mode="refuse")
    assert (await http.request("GET", "/domains", headers=AUTH)).status == 200
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", "/emails", json_body=GOOD, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == ("validation_error", 403)
