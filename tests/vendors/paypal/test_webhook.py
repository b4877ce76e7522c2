"""PayPal's certificate signatures, by the published delivery and by the stand-in, and its events in our words."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.paypal import webhook
from wedsync.vendors.paypal.certificates import Certificates, is_loopback, is_official, public_roots, trusted_key
from wedsync.vendors.paypal.sandbox_signing import signer, webhook_headers
from wedsync.vendors.paypal.signature import certificate_url

BASE = "http://127.0.0.1:1/paypal"
BODY = '{"id": "WH-1", "summary": "Élodie"}'.encode()
ROOT = x509.load_pem_x509_certificates(signer().root_pem)


@pytest.fixture
def published(shared_vectors: Path) -> dict[str, Any]:
    """The published delivery, with its certificate's chain kept in `certificates`."""
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    (one,) = [vector for vector in vectors if vector["source"] == "paypal"]
    folder = shared_vectors / "paypal"
    between = (folder / "DigiCertSHA2ExtendedValidationServerCA.crt.pem").read_bytes()
    root = x509.load_pem_x509_certificate((folder / "DigiCertHighAssuranceEVRootCA.crt.pem").read_bytes())
    chain = one["secret_or_key"].encode() + b"\n" + between
    certificates = Certificates()
    certificates.keep(one["headers"]["PAYPAL-CERT-URL"], chain, [root])
    return {**one, "certificates": certificates, "chain": chain, "root": root}


def _judge(one: dict[str, Any], **changed: Any) -> bool:
    given_ = {
        "body": base64.b64decode(one["body"]),
        "headers": one["headers"],
        "secrets": [one["extra"]["webhook_id"]],
        "now": datetime.fromtimestamp(one["now"], UTC),
        "certificates": one["certificates"],
        **changed,
    }
    return webhook.verify(url=one["url"], **given_)


def test_the_published_delivery_is_decided_as_it_says(published: dict[str, Any]) -> None:
    assert _judge(published) is published["valid"] is True
    assert _judge(published, secrets=["OTHER", published["extra"]["webhook_id"]])


def test_anything_changed_is_refused(published: dict[str, Any]) -> None:
    headers = published["headers"]
    assert not _judge(published, body=base64.b64decode(published["body"]) + b" ")
    assert not _judge(published, secrets=["OTHER"])
    assert not _judge(published, secrets=[])
    for name, value in (
        ("PAYPAL-TRANSMISSION-ID", "x"),
        ("PAYPAL-TRANSMISSION-TIME", "2015-05-18T15:45:14Z"),
        ("PAYPAL-TRANSMISSION-TIME", "soon"),
        ("PAYPAL-TRANSMISSION-SIG", "%%%"),
        ("PAYPAL-TRANSMISSION-SIG", "AAAA"),
        ("PAYPAL-CERT-URL", "https://api.paypal.com/v1/notifications/certs/CERT-other"),
        ("PAYPAL-AUTH-ALGO", "none"),
    ):
        assert not _judge(published, headers={**headers, name: value}), name
    assert not _judge(published, headers={})


def test_an_old_delivery_and_one_from_the_future_are_refused(published: dict[str, Any]) -> None:
    now = datetime.fromtimestamp(published["now"], UTC)
    assert _judge(published, now=now + timedelta(days=3))
    assert not _judge(published, now=now + timedelta(days=4))
    assert not _judge(published, now=now - timedelta(minutes=6))


def test_a_certificate_must_lead_to_a_trusted_root_and_be_in_date(published: dict[str, Any]) -> None:
    now = datetime.fromtimestamp(published["now"], UTC)
    assert trusted_key(published["chain"], [published["root"]], now) is not None
    assert trusted_key(published["chain"], ROOT, now) is None
    assert trusted_key(published["chain"], [], now) is None
    assert trusted_key(published["chain"], [published["root"]], datetime(2026, 1, 1, tzinfo=UTC)) is None
    assert trusted_key(b"no certificate", [published["root"]], now) is None
    assert trusted_key(b"", [published["root"]], now) is None


def test_the_stand_ins_certificate_is_trusted_under_its_own_root_only() -> None:
    now = datetime.now(UTC)
    assert trusted_key(signer().certificate_pem, ROOT, now) is not None
    assert trusted_key(signer().certificate_pem, public_roots(), now) is None
    # A root is no signer.
    assert trusted_key(signer().root_pem, ROOT, now) is None


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("https://api.paypal.com/v1/notifications/certs/CERT-1", True),
        ("https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1", True),
        ("http://api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com.evil.test/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com@evil.test/v1/notifications/certs/CERT-1", False),
        ("https://user@api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com:8443/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com:99999/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com/elsewhere", False),
        ("https://www.paypal.com/v1/notifications/certs/CERT-1", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_certificates_come_from_paypal_only(url: str, verdict: bool) -> None:
    assert is_official(url) is verdict


def test_a_loopback_address_is_known() -> None:
    assert all(map(is_loopback, ("http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:8/x")))
    assert not any(map(is_loopback, ("http://10.0.0.1/x", "https://api.paypal.com", "http://[::1", "")))


async def test_a_webhook_of_the_stand_in_is_accepted_once_prepared(sandbox: EmbeddedSandbox) -> None:
    certificates = Certificates()
    headers = webhook_headers(BODY, "WEBHOOK-ID", sandbox.vendor_url("paypal"))
    now = datetime.now(UTC)
    assert not webhook.verify(BODY, headers, "", ["WEBHOOK-ID"], now, certificates)
    for _ in range(2):
        await webhook.prepare(headers, sandbox.http("paypal"), certificates)
    assert webhook.verify(BODY, headers, "", ["WEBHOOK-ID"], now, certificates)
    assert not webhook.verify(BODY, headers, "", ["OTHER"], now, certificates)
    assert [one["operation"] for one in await sandbox.requests("paypal")] == ["certificate", "certificate"]


async def test_a_certificate_from_elsewhere_is_never_asked_for(sandbox: EmbeddedSandbox) -> None:
    certificates = Certificates()
    http = sandbox.http("paypal")
    stripe = sandbox.vendor_url("stripe")
    for url in (f"{stripe}/v1/notifications/certs/CERT-1", "https://evil.test/v1/notifications/certs/CERT-1", ""):
        await certificates.fetch(url, http)
        assert certificates.key(url, datetime.now(UTC)) is None
    assert await sandbox.requests("paypal") == []
    assert await sandbox.requests("stripe") == []


async def test_an_unknown_certificate_is_not_asked_for_again_and_again(sandbox: EmbeddedSandbox) -> None:
    certificates = Certificates()
    http = sandbox.http("paypal")
    for number in range(40):
        await certificates.fetch(f"{http.base_url}/v1/notifications/certs/CERT-{number}", http)
    assert len(await sandbox.requests("paypal")) == 20


async def test_strangers_use_up_only_their_own_share_of_unknown_certificates(sandbox: EmbeddedSandbox) -> None:
    certificates, http, now = Certificates(), sandbox.http("paypal"), datetime.now(UTC)
    good = f"{http.base_url}/v1/notifications/certs/CERT-1"

    async def strangers(*clients: str) -> None:
        for number in range(30):
            for client in clients:
                await certificates.fetch(f"{good}-{client}-{number}", http, client=client)

    # One holder of IPv6 has many addresses.
    await strangers("203.0.113.9", "2001:db8::1", "2001:db8::2")
    assert len(await sandbox.requests("paypal")) == 40
    await certificates.fetch(headers_url(http.base_url), http, client="173.0.81.1")
    assert certificates.key(headers_url(http.base_url), now) is not None
    # What was good once is asked for again, whoever has used up what, and though others were kept since.
    pem, roots = certificates._kept.pop(headers_url(http.base_url))
    for number in range(40):
        certificates.keep(f"https://api.paypal.com/{number}", pem, roots)
    await certificates.fetch(headers_url(http.base_url), http, client="203.0.113.9")
    assert certificates.key(headers_url(http.base_url), now) is not None


async def test_an_address_that_could_not_be_reached_is_tried_again_soon(sandbox: EmbeddedSandbox) -> None:
    certificates, http, now = Certificates(), sandbox.http("paypal"), datetime.now(UTC)
    url = headers_url(http.base_url)
    await sandbox.faults("paypal", mode="down", times=1)
    with time_machine.travel(now, tick=False) as clock:
        await certificates.fetch(url, http)
        await certificates.fetch(url, http)
        assert certificates.key(url, now) is None
        clock.shift(6)
        await certificates.fetch(url, http)
    assert certificates.key(url, now) is not None


def headers_url(base_url: str) -> str:
    return certificate_url(webhook_headers(BODY, "WEBHOOK-ID", base_url))


def test_a_completed_capture_is_a_payment_in_our_words() -> None:
    resource = {
        "id": "CAPTURE1",
        "amount": {"currency_code": "JPY", "value": "80000"},
        "custom_id": "w-1:deposit",
        "supplementary_data": {"related_ids": {"order_id": "ORDER1"}},
    }
    event = {
        "id": "WH-1",
        "event_type": "PAYMENT.CAPTURE.COMPLETED",
        "create_time": "2026-11-20T12:00:00Z",
        "resource": resource,
    }
    (parsed,) = webhook.parse(json.dumps(event).encode(), {})
    assert (parsed.source, parsed.event_id, parsed.type) == ("paypal", "WH-1", "payment.succeeded")
    assert (parsed.object_id, parsed.wedding_id, parsed.step_id) == ("ORDER1", "w-1", "deposit")
    assert parsed.facts == {"payment_id": "CAPTURE1", "amount_minor": 80000, "currency": "JPY"}
    assert parsed.occurred_at == datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_a_denied_capture_is_a_failed_payment() -> None:
    resource = {"id": "C1", "amount": {"value": "1.234", "currency_code": "EUR"}, "status_details": {"reason": "OTHER"}}
    body = {"id": "WH-2", "event_type": "PAYMENT.CAPTURE.DENIED", "create_time": "yesterday", "resource": resource}
    (parsed,) = webhook.parse(json.dumps(body).encode(), {})
    assert (parsed.type, parsed.object_id, parsed.wedding_id) == ("payment.failed", "C1", None)
    assert parsed.facts == {"payment_id": "C1", "reason": "OTHER"}
    assert parsed.occurred_at is None


def test_an_event_that_we_do_not_wait_for_is_other() -> None:
    body = {"id": "WH-3", "event_type": "CHECKOUT.ORDER.APPROVED", "resource": {"id": "O1"}}
    (parsed,) = webhook.parse(json.dumps(body).encode(), {})
    assert (parsed.type, parsed.vendor_type, parsed.facts) == ("other", "CHECKOUT.ORDER.APPROVED", {})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"id": "x", "event_type": "y"}', b"\xff", b"[" * 200_000])
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(body, {})


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.text(max_size=40), min_size=5, max_size=5), body=st.binary(max_size=40))
def test_malformed_input_never_raises(values: list[str], body: bytes) -> None:
    names = ("transmission-id", "transmission-time", "transmission-sig", "cert-url", "auth-algo")
    headers = {f"paypal-{name}": value for name, value in zip(names, values, strict=True)}
    assert webhook.verify(body, headers, "", ["x"], datetime.now(UTC)) is False
    good = {**webhook_headers(body, "x", BASE), "PAYPAL-TRANSMISSION-ID": values[0]}
    certificates = Certificates()
    certificates.keep(good["PAYPAL-CERT-URL"], signer().certificate_pem, ROOT)
    assert webhook.verify(body, good, "", ["x"], datetime.now(UTC), certificates) is False
