"""Translates between our booking and the generic API's JSON. Pure."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Literal, cast
from urllib.parse import quote, unquote, urlsplit

from pydantic import JsonValue, ValidationError

from wedsync.domain.errors import InvalidInput, OutcomeUnknown
from wedsync.domain.plans.plan import ApiEndpoints
from wedsync.domain.vendors.action_inputs import Booking, Moment
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import booking_of

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Status = Literal["held", "pending", "confirmed", "declined", "cancelled"]
_STATUSES = frozenset(("held", "pending", "confirmed", "declined", "cancelled"))
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


def _manifest_endpoints() -> dict[str, tuple[Method, str]]:
    manifest = tomllib.loads(files(__package__).joinpath("manifest.toml").read_text("utf-8"))
    split = {name: text.split(" ", 1) for name, text in manifest["endpoints"].items()}
    return {name: (cast(Method, method), path) for name, (method, path) in split.items()}


#: Operation → method and path template, where the plan says nothing.
DEFAULT_ENDPOINTS = _manifest_endpoints()


def endpoints_of(call: Call) -> ApiEndpoints:
    """Read the plan's own endpoints, empty where it gives none; raises InvalidInput."""
    try:
        return ApiEndpoints.model_validate(call.endpoints)
    except ValidationError as error:
        raise InvalidInput("the service's api_endpoints are malformed", field="api_endpoints") from error


def base_url(input_value: str | None, account_base_url: str, business: str) -> str:
    """Return where the business's API begins, without a trailing slash.

    A plan's own base URL must be https; plain http is taken only to this machine, and only where our own account is
    there too. Raises InvalidInput.
    """
    if input_value is None:
        if business in ("", ".", ".."):
            raise InvalidInput("the business has no name", field="account")
        return f"{account_base_url.rstrip('/')}/{quote(business, safe='')}"
    try:
        parts = urlsplit(input_value)
        _ = parts.port
    except ValueError:
        raise InvalidInput("the base_url is not a URL", field="api_endpoints.base_url") from None
    own = urlsplit(account_base_url)
    local = own.scheme == "http" and own.hostname in _LOOPBACK and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise InvalidInput("the base_url must begin with https://", field="api_endpoints.base_url")
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise InvalidInput("the base_url must be host and path only", field="api_endpoints.base_url")
    return input_value.rstrip("/")


def endpoint(name: str, endpoints: ApiEndpoints, values: dict[str, str]) -> tuple[Method, str]:
    """Return method and filled-in path of an operation; raises InvalidInput when the path needs an unknown value."""
    input_value = getattr(endpoints, name, None)
    method, template = (input_value.method, input_value.path) if input_value is not None else DEFAULT_ENDPOINTS[name]
    if not template.startswith("/") or template.startswith("//"):
        raise InvalidInput("the path must begin with one /", field=f"api_endpoints.{name}.path")
    path = template
    for key, value in values.items():
        path = path.replace(f"{{{key}}}", quote(value, safe=""))
    if "{" in path:
        raise InvalidInput("the path has an unknown placeholder", field=f"api_endpoints.{name}.path")
    # Dot segments are resolved before sending and would lead to another business at the same address.
    if not {".", ".."}.isdisjoint(unquote(path.partition("?")[0]).split("/")):
        raise InvalidInput("the path must not leave the business's own", field=f"api_endpoints.{name}.path")
    return method, path


def at_venue(moment: Moment) -> str:
    """Write RFC 3339 with the venue's offset, taken from the moment: no zone table is read, retries are identical."""
    wall = datetime.fromisoformat(moment.local)
    offset = wall - moment.instant.astimezone(UTC).replace(tzinfo=None)
    sign = "-" if offset < timedelta(0) else "+"
    minutes = round(abs(offset).total_seconds()) // 60
    return f"{wall.isoformat(timespec='seconds')}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


def details(booking: Booking) -> dict[str, JsonValue]:
    """Build what a request and a change have in common."""
    contact: dict[str, JsonValue] = {"name": booking.contact.name}
    if booking.contact.email:
        contact["email"] = booking.contact.email
    if booking.contact.phone:
        contact["phone"] = booking.contact.phone
    body: dict[str, JsonValue] = {
        "title": booking.title,
        "starts_at": at_venue(booking.starts),
        "ends_at": at_venue(booking.ends),
        "timezone": booking.starts.zone,
        "guests": booking.guests,
        "contact": contact,
        "notes": booking.notes,
    }
    if booking.price is not None:
        body["price"] = {"amount": booking.price, "currency": booking.currency}
    return body


def request_body(call: Call) -> dict[str, JsonValue]:
    """Build the body of `request`."""
    booking = booking_of(call)
    return {"reference": call.reference, **details(booking), "answer": booking.answer}


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{"error": {"code", "message"}}`; the message may name guests and is left out."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and 0 < len(code) <= 64:
        return code, f"refused with {code}"
    return f"http_{status}", f"answered {status}"


def status_of(body: Any) -> Status:
    """Read the booking's status; raises OutcomeUnknown when the answer is not a booking (the business did act)."""
    status = body.get("status") if isinstance(body, dict) else None
    if status not in _STATUSES:
        raise OutcomeUnknown("generic answered with something that is not a booking", vendor="generic")
    return cast(Status, status)


def effect(body: Any, call: Call, state: Literal["done", "waiting", "absent"]) -> Effect:
    """Turn a booking into an effect; raises OutcomeUnknown when it has no id and we know none."""
    known = body.get("id") if isinstance(body, dict) else None
    booking_id = known if isinstance(known, str) and known else call.facts.get("booking_id")
    if not isinstance(booking_id, str):
        raise OutcomeUnknown("generic answered without the booking's id", vendor="generic")
    etag = body.get("etag")
    return Effect(
        state=state,
        external_id=booking_id,
        facts={"booking_id": booking_id, "reference": call.reference},
        etag=etag if isinstance(etag, str) else None,
        detail=f"booking {booking_id} {status_of(body)}",
    )
