from __future__ import annotations

from typing import Any

import pytest

from wedsync.domain.errors import NotAuthorized
from wedsync.domain.vendors.manifest import Manifest
from wedsync.kit.http import VendorHttp, new_pool
from wedsync.kit.vendor import Account
from wedsync.pipeline.credentials import Credential, authorize
from wedsync.vendors.registry import load_registry

FULL = {"api_key": "k", "account_id": "a", "client_id": "c", "client_secret": "s"}


async def credential(vendor: str | Manifest, **given: Any) -> Credential:
    manifest = load_registry().manifest(vendor) if isinstance(vendor, str) else vendor
    pool = new_pool()
    http = VendorHttp(pool, vendor=manifest.name, base_url="http://127.0.0.1:1", timeout_seconds=1)
    try:
        return await authorize(manifest, http, Account(vendor=manifest.name, base_url=http.base_url, **given))
    finally:
        await pool.aclose()


@pytest.mark.parametrize(
    ("vendor", "given", "headers", "params"),
    [
        ("stripe", FULL, [("authorization", "Bearer k")], []),
        ("google_calendar", FULL, [("authorization", "Bearer k")], []),
        ("twilio", FULL, [("authorization", "Basic YTpr")], []),
        ("twilio", {"api_key": "SK1:secret"}, [("authorization", "Basic U0sxOnNlY3JldA==")], []),
        ("vsco", FULL, [("x-api-key", "k")], []),
        ("vonage", FULL, [], [("api_key", "k"), ("api_secret", "s")]),
        ("open_meteo", FULL, [], [("apikey", "k")]),
        ("open_meteo", {}, [], []),
    ],
)
async def test_a_request_is_authorized_as_the_vendors_client_does(
    vendor: str, given: dict[str, str], headers: list[tuple[str, str]], params: list[tuple[str, str]]
) -> None:
    found = await credential(vendor, **given)
    assert (list(found.headers), list(found.params)) == (headers, params)


@pytest.mark.parametrize("vendor", ["stripe", "twilio", "vsco", "vonage", "paypal"])
async def test_without_a_credential_nothing_is_authorized(vendor: str) -> None:
    with pytest.raises(NotAuthorized):
        await credential(vendor)


@pytest.mark.parametrize("kind", ["sigv4", "oauth_client"])
async def test_what_nobody_can_sign_is_refused(kind: str) -> None:
    stripe = load_registry().manifest("stripe")
    with pytest.raises(NotAuthorized):
        await credential(stripe.model_copy(update={"auth": stripe.auth.model_copy(update={"kind": kind})}), **FULL)
