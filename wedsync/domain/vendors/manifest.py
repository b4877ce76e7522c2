"""Describe a vendor: its manifest, one call to it, and that call's effect. Values only.

Words: a plan requests an **action** (`payments.collect`). A vendor carries an action out by one or more
**operations** (`create_intent`, `confirm_intent`), one call each; the operations that undo it stand beside it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from wedsync.domain.value import Value

OnUnknown = Literal["replay", "find", "unsafe"]
Undo = Literal["exact", "counter", "none"]


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

    #: `capability.verb`, e.g. `payments.collect`; must stand in `wedsync.domain.plans.actions`.
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
