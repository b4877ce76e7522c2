"""Configuration of a registered webhook source: scheme, types, reading, retries. Values."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from wedsync.domain.value import Value

SchemeName = Literal[
    "stripe", "paypal", "twilio", "sendgrid", "resend", "standard_webhooks", "svix", "slack", "zoom", "github", "meta",
    "vonage", "google_calendar", "microsoft_graph", "vsco", "zapier", "hmac_sha256",
]  # fmt: skip

PriorityName = Literal["critical", "high", "normal", "low"]
PRIORITIES: dict[str, int] = {"critical": 1, "high": 2, "normal": 3, "low": 4}

#: Our types of vendor events; an event of any other type is kept as `other`.
KNOWN_TYPES = frozenset(
    {
        "payment.succeeded",
        "payment.failed",
        "booking.confirmed",
        "booking.declined",
        "message.delivered",
        "message.failed",
        "calendar.changed",
    }
)
KnownType = Literal[
    "payment.succeeded", "payment.failed", "booking.confirmed", "booking.declined", "message.delivered",
    "message.failed", "calendar.changed", "other",
]  # fmt: skip

#: Postgres keeps no text with a NUL in it.
STORABLE = r"^[^\x00]*$"


class HmacOptions(Value):
    """Form in which a source writes its HMAC-SHA256."""

    #: The header of the signature; several signatures, separated by commas, are each tried.
    header: str = Field(default="X-Signature", pattern=r"^[A-Za-z0-9-]{1,64}$")
    encoding: Literal["hex", "base64"] = "hex"
    #: The text before the signature: `sha256=`.
    prefix: str = Field(default="", max_length=32, pattern=STORABLE)
    #: The header of the unix time that is signed too; empty: the source signs none.
    timestamp_header: str = Field(default="", pattern=r"^[A-Za-z0-9-]{0,64}$")
    #: The text that is signed before the body when there is a time: `{timestamp}.` or `v0:{timestamp}:`.
    signed_prefix: str = Field(default="{timestamp}.", max_length=64, pattern=STORABLE)
    tolerance_seconds: int = Field(default=300, ge=1, le=86_400)


#: `data.object.id`, `items.0.id`, `header:X-Delivery`; `|` separates alternatives, of which the first present counts.
Path = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.:|@-]*$")]


class PayloadPaths(Value):
    """Paths of a message's parts; an empty path: it has no such part."""

    #: Without a path or a value there, the digest of the body names the event: what many sources call `id` is the
    #: object's, the same in each of its events.
    id: Path = ""
    type: Path = "type"
    object_id: Path = "object_id"
    wedding: Path = "wedding_id"
    step: Path = "step_id"
    #: Unix time in seconds or milliseconds, or ISO 8601.
    occurred_at: Path = "created_at|timestamp"
    phone: Path = ""
    email: Path = ""


class EventRetryPolicy(Value):
    """Number and times of retries for an event whose own processing failed."""

    #: After so many it is dead: kept with its reason, until somebody replays it.
    max_retries: int = Field(default=8, ge=0, le=50)
    multiplier: float = Field(default=3.0, ge=1.0, le=10.0)
    first_seconds: float = Field(default=10.0, ge=0.1, le=3600.0)
    cap_seconds: float = Field(default=3600.0, ge=0.1, le=86_400.0)

    def wait(self, attempts: int) -> timedelta | None:
        """Return the wait after the `attempts`th fault; None: no more retries."""
        if attempts > self.max_retries:
            return None
        # Beyond some 300 doublings the power would overflow; the cap is long reached by then.
        grown = self.first_seconds * self.multiplier ** min(attempts - 1, 50)
        return timedelta(seconds=min(grown, self.cap_seconds))


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Network = Annotated[str, Field(max_length=64), AfterValidator(_network)]
EventWord = Annotated[str, Field(min_length=1, max_length=200, pattern=STORABLE)]


class SourceConfig(Value):
    """Everything about a registered source but its name and secrets."""

    scheme: SchemeName
    #: For `meta`: the token in its URL when it proves the address; empty: one of the secrets.
    verify_token: str = Field(default="", max_length=200, pattern=STORABLE)
    #: For `hmac_sha256`.
    hmac: HmacOptions | None = None
    #: The vendor of its objects: matched against what that vendor's steps hold. Default: the scheme's own vendor.
    vendor: str = Field(default="", pattern=r"^[a-z0-9_]{0,63}$")
    #: Used if no vendor's own reading applies.
    paths: PayloadPaths | None = None
    #: The source's types that are taken; others are acknowledged and dropped. Empty: all.
    event_types: tuple[EventWord, ...] = Field(default=(), max_length=200)
    #: The source's type → ours; a type of ours needs none.
    type_map: dict[EventWord, KnownType] = Field(default={}, max_length=200)
    #: Of all its events; None: by their type.
    priority: PriorityName | None = None
    retry_policy: EventRetryPolicy = EventRetryPolicy()
    #: Whether its events are matched to weddings at all.
    wedding_correlation: bool = True
    rate_per_second: float = Field(default=100.0, gt=0.0, le=10_000.0)
    burst: int = Field(default=1000, ge=1, le=100_000)
    #: Addresses that may post; empty: all.
    allowed_networks: tuple[Network, ...] = Field(default=(), max_length=100)
    #: How often its vendor's own list of events is compared with what it sent, by its `account`; None: never.
    reconcile_every_minutes: int | None = Field(default=None, ge=5, le=1440)


#: The characters of a header: nothing else may make a request fail before the vendor has seen it.
Credential = Annotated[str, Field(max_length=4096, pattern=r"^[\x21-\x7e]*$")]


class SourceAccount(Value):
    """A credential that reads a registered source's own list of events, as its vendor's client needs it."""

    api_key: Credential = Field(default="", repr=False)
    account_id: Credential = ""
    client_id: Credential = ""
    client_secret: Credential = Field(default="", repr=False)

    @model_validator(mode="after")
    def _is_one(self) -> SourceAccount:
        if not self.api_key and not (self.client_id and self.client_secret):
            raise ValueError("name an `api_key`, or a `client_id` and a `client_secret`")
        return self


def may_post(config_networks: tuple[str, ...], address: str) -> bool:
    """Tell whether a client at `address` is in one of the networks; with none named, everybody is."""
    if not config_networks:
        return True
    try:
        client = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
    known = mapped or client
    return any(known in ipaddress.ip_network(network) for network in config_networks)
