"""Describe a vendor: its manifest, one call to it, and that call's effect. Values only.

Words: a plan requests an **action** (`payments.collect`). A vendor carries an action out by one or more
**operations** (`create_intent`, `confirm_intent`), one call each; the operations that undo it stand beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

OnUnknown = Literal["replay", "find", "unsafe"]
Undo = Literal["exact", "counter", "none"]
EffectState = Literal["done", "waiting", "absent"]


class Value(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OperationSpec(Value):
    """One vendor call as the manifest declares it."""

    name: str
    #: How an unknown outcome is resolved: `replay` (idempotency key), `find` (by our reference), `unsafe` (neither).
    on_unknown: OnUnknown = "replay"
    #: True when the call alone has no effect the couple would notice (an unconfirmed payment intent):
    #: then an unknown outcome of it allows a fallback.
    harmless: bool = False
    #: The vendor refuses a second object with our reference: sending again after "not found" can't double it.
    refuses_duplicates: bool = False
    #: A read changes nothing; it may be repeated and routed freely.
    read: bool = False
    #: The normalized event the vendor sends when it answers later, e.g. `payment.succeeded`; empty: answers at once.
    waits_for: str = ""
    #: Events that mean the vendor refused, e.g. `payment.failed`.
    refused_by: tuple[str, ...] = ()


class ActionSpec(Value):
    """One vendor's operations for one action."""

    #: `capability.verb`, e.g. `payments.collect`; must stand in `wedsync.domain.weddings.catalogue`.
    name: str
    operations: tuple[OperationSpec, ...] = ()
    undo: Undo
    #: Run in order to undo; the first may find out what there is to undo.
    undo_operations: tuple[OperationSpec, ...] = ()
    #: Moves an effect to new inputs (another time); the same operation with the old inputs undoes it.
    change_operations: tuple[OperationSpec, ...] = ()
    #: The vendor has no API for it: we send the vendor a signed link, and the step needs attention.
    manual: bool = False
    #: The vendor has no API for the undo.
    undo_manual: bool = False
    #: The payer needs an instrument (stored card, vault token) of this vendor.
    needs_instrument: bool = False


class AuthSpec(Value):
    """Settings that authorize requests."""

    kind: Literal["bearer", "basic", "header", "oauth_client", "query", "sigv4", "none"]
    #: For `header`: its name, e.g. `X-API-KEY`.
    header: str = ""
    #: Credentials in the query: a parameter's name, and the account's field with its value.
    params: dict[str, Literal["api_key", "account_id", "client_id", "client_secret"]] = {}


class GatewayPolicy(Value):
    """Rules for what partners may send through the gateway by the platform's own account. Nothing by default."""

    #: `METHOD /path`; in the path `*` stands for anything within a segment, `**` for anything.
    allow: Annotated[
        tuple[
            Annotated[
                str,
                Field(max_length=300, pattern=r"^(GET|HEAD|POST|PUT|PATCH|DELETE) /[A-Za-z0-9._~!$&'()*+,=:@%/-]*$"),
            ],
            ...,
        ],
        Field(max_length=200),
    ] = ()
    #: Request headers that pass beside the usual ones; credentials, cookies and internal ones never do.
    headers: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], ...], Field(max_length=50)] = ()
    #: Whose keys may use it beside the operators': the platform's account holds everybody's objects.
    organizations: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=1000)
    ] = ()
    request_max_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 10 * 1024 * 1024
    response_max_bytes: Annotated[int, Field(ge=0, le=1 << 32)] = 50 * 1024 * 1024
    #: For the whole exchange; each wait within it is at most the vendor's usual timeout.
    total_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0


class VersionSpec(Value):
    """One version of a vendor's API, and how a request selects it."""

    #: As the vendor writes it.
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
    status: Literal["active", "deprecated", "sunset"] = "active"
    deprecated_on: date | None = None
    #: From this day on the vendor no longer answers it.
    sunset_on: date | None = None
    #: An operator knows that the vendor answers it all the same.
    sunset_overridden: bool = False
    #: False: no wedding's call uses it.
    wedding_compatible: bool = True
    #: Whether a client of the version before works with this one, too.
    backward_compatible: bool = True
    migration_guide: Annotated[str, Field(max_length=500, pattern=r"^(https://[\x21-\x7e]+)?$")] = ""
    #: This request header selects it; the client's own way does when neither this nor `path` is given.
    header: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9-]*$")] = ""
    #: This first part of the path selects it, `/beta`.
    path: Annotated[str, Field(max_length=200, pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""


class Manifest(Value):
    """`wedsync/vendors/<name>/manifest.toml`: everything about a vendor that is not code."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    capabilities: tuple[str, ...]
    documentation_url: str
    #: The pinned version of the vendor's API, as the vendor writes it.
    api_version: str = ""
    base_url: str
    auth: AuthSpec
    #: Shorter than the activity's start-to-close.
    timeout_seconds: float = 8.0
    #: How long the vendor honours an idempotency key; 0: it has none.
    idempotency_hours: float = 0
    #: Calls that the account allows, e.g. {"per_second": 25}.
    quotas: dict[str, int] = {}
    #: Where the vendor says how to get more; empty: its documentation.
    quota_upgrade: str = ""
    #: The path of the health probe.
    health_path: str = "/"
    #: Answers with 503 are taken as "not processed" (RFC 9110, 15.6.4) unless the vendor says otherwise.
    unavailable_means_not_processed: bool = True
    #: For `generic`: operation → "METHOD /path", which a plan's `api_endpoints` override.
    endpoints: dict[str, str] = {}
    #: The versions that its client speaks, `api_version` among them; none: only that one.
    versions: tuple[VersionSpec, ...] = ()
    gateway: GatewayPolicy = GatewayPolicy()
    actions: tuple[ActionSpec, ...] = ()

    @property
    def has_api(self) -> bool:
        """Tell whether anything of it is called: a vendor whose every action is manual has no client."""
        return any(action.operations for action in self.actions)

    def action(self, name: str) -> ActionSpec | None:
        """Return the spec of action `name`, or None when this vendor cannot do it."""
        return next((action for action in self.actions if action.name == name), None)


#: The platform's own account: only it has other endpoints than its own address.
PLATFORM_ACCOUNT = "default"


class Call(Value):
    """One vendor call as the saga requests it; retries carry a byte-identical value, so bodies are identical, too."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    step_id: str
    vendor: str
    #: The vendor's account; `default` is the platform's own. For `generic` the business: `villa-aurora`.
    account: str = PLATFORM_ACCOUNT
    action: str
    operation: str
    #: At most 64 characters of [A-Za-z0-9-_], the same for every attempt of this round.
    idempotency_key: str
    #: Our name for the effect, stable over retries: 32 characters of [0-9a-v] (Google's event id alphabet).
    reference: str
    #: The action's inputs, references resolved, in the shape of the catalogue's input model.
    inputs: dict[str, JsonValue]
    #: Results of the step's earlier operations (`external_id` and facts), or, for an undo, of its action.
    facts: dict[str, JsonValue] = {}
    #: For a change: the inputs in effect now. Empty otherwise.
    previous_inputs: dict[str, JsonValue] = {}
    #: The generic vendor's endpoints as the plan's service gives them; empty for all others.
    endpoints: dict[str, JsonValue] = {}
    #: No attempt was sent before this moment: a `find` starts here.
    first_sent_at: datetime
    locale: str = "en"


class Effect(Value):
    """Effect of a call, or the finding of a `find` or probe."""

    #: `done`; `waiting` (accepted, a webhook brings the confirmation); `absent` (nothing there, nothing to undo).
    state: EffectState
    #: The vendor's id of the object.
    external_id: str | None = None
    #: Results that later steps may refer to, as the catalogue names them (`payment_id`, `event_id`), plus what
    #: the undo needs. JSON, small, no secrets.
    facts: dict[str, JsonValue] = {}
    #: The object's version at the vendor, to notice foreign changes.
    etag: str | None = None
    #: A digest of what we wrote there, as it reads now: the version changes, too, when a guest answers an invitation.
    content: str | None = None
    #: A fact for people, in English, without guests' data: "refund re_1 created".
    detail: str = ""


def content_digest(written: Mapping[str, JsonValue]) -> str:
    """Return 22 characters that change with the content at the vendor."""
    text = json.dumps(written, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")


class VendorEvent(Value):
    """A verified webhook, normalized."""

    source: str
    #: The vendor's id of the event: with `source` it makes the event unique.
    event_id: str
    #: Normalized: `payment.succeeded`, `payment.failed`, `booking.confirmed`, `booking.declined`,
    #: `message.delivered`, `message.failed`, `calendar.changed`; or `other`.
    type: str
    #: The vendor's own name of the type.
    vendor_type: str
    object_id: str | None = None
    wedding_id: str | None = None
    step_id: str | None = None
    occurred_at: datetime | None = None
    facts: dict[str, JsonValue] = {}
    #: Phones and addresses that the message names; only their digests are ever kept.
    contacts: tuple[str, ...] = Field(default=(), repr=False, exclude=True)
