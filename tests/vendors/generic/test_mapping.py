"""Where a business's endpoints are, and what its answers mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wedsync.domain.errors import InvalidInput, OutcomeUnknown
from wedsync.domain.plans.plan import ApiEndpoints, Endpoint
from wedsync.domain.vendors.call import Call
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.vendors.read_inputs import booking_of
from wedsync.vendors.generic import mapping
from wedsync.vendors.registry import load_registry

VALUES = {"reference": "ref 1", "booking_id": "a/b?c"}


def test_the_defaults_are_the_manifests() -> None:
    manifest: Manifest = load_registry().manifest("generic")
    assert {name: " ".join(pair) for name, pair in mapping.DEFAULT_ENDPOINTS.items()} == manifest.endpoints
    assert mapping.endpoint("find", ApiEndpoints(), VALUES) == ("GET", "/bookings?reference=ref%201")
    assert mapping.endpoint("cancel", ApiEndpoints(), VALUES) == ("POST", "/bookings/a%2Fb%3Fc/cancel")


def test_the_plans_endpoint_wins() -> None:
    given = ApiEndpoints(cancel=Endpoint(method="DELETE", path="/v2/{booking_id}"))
    assert mapping.endpoint("cancel", given, VALUES) == ("DELETE", "/v2/a%2Fb%3Fc")


@pytest.mark.parametrize(
    "path", ["bookings", "//evil.example.com", "/{secret}", "https://e.example/", "/../other/bookings", "/%2e%2e/other"]
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        mapping.endpoint("cancel", ApiEndpoints(cancel=Endpoint(method="POST", path=path)), VALUES)


def test_the_business_is_a_segment_of_our_accounts_address() -> None:
    assert mapping.base_url(None, "https://b.example/x/", "../admin") == "https://b.example/x/..%2Fadmin"
    with pytest.raises(InvalidInput):
        mapping.base_url(None, "https://b.example", "..")
    assert mapping.base_url("https://own.example/api/", "https://b.example", "villa") == "https://own.example/api"


def test_malformed_inputs_and_endpoints_are_invalid(make_call: Callable[..., Call]) -> None:
    call = make_call("generic", "booking.request", "request", {"title": 3}, endpoints={"request": "POST"})
    with pytest.raises(InvalidInput):
        booking_of(call)
    with pytest.raises(InvalidInput):
        mapping.endpoints_of(call)


@pytest.mark.parametrize("body", [None, [], {}, {"status": "fine"}, {"id": "b"}])
def test_an_answer_that_is_no_booking_leaves_the_outcome_unknown(body: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        mapping.status_of(body)


def test_a_booking_without_an_id_leaves_the_outcome_unknown(make_call: Callable[..., Call]) -> None:
    call = make_call("generic", "booking.request", "request")
    with pytest.raises(OutcomeUnknown):
        mapping.effect({"status": "held"}, call, "done")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"code": "date_taken", "message": "Ada has it"}}, "date_taken"),
        ({"error": "no"}, "http_409"),
        (None, "http_409"),
        ({"error": {"code": "x" * 65}}, "http_409"),
    ],
)
def test_the_reason_is_the_businesss_code_and_never_its_text(body: Any, code: str) -> None:
    reason, detail = mapping.read_error(409, body)
    assert reason == code
    assert "Ada" not in detail
