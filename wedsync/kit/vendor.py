"""What a vendor's package must offer: `client.py`, `webhook.py` and `sandbox.py` by these protocols.

The registry finds a package by its `manifest.toml` and takes from it `client.Client`, and, where they exist,
`webhook.verify`, `webhook.parse`, `sandbox.StandIn` and `probe.probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import Field, JsonValue

from wedsync.domain.routing.vendor import Call, Effect, Value, VendorEvent
from wedsync.kit.http import VendorHttp


class Account(Value):
    """One account at a vendor: where it is called and by which credential."""

    vendor: str
    name: str = "default"
    base_url: str
    api_key: str = Field(default="", repr=False)
    account_id: str = ""
    client_id: str = ""
    client_secret: str = Field(default="", repr=False)
    webhook_secrets: tuple[str, ...] = Field(default=(), repr=False)
    #: Where the vendor shall send its webhooks (status callbacks).
    webhook_url: str = ""
    #: The version of the vendor's API to ask for; empty: the client's own.
    api_version: str = ""
    #: The request header that asks for it, where the manifest names one.
    api_version_header: str = ""


class VendorClient(Protocol):
    """Speaks one vendor's wire format; holds no state but tokens. Raises only `wedsync.domain.errors`."""

    def __init__(self, http: VendorHttp, account: Account) -> None: ...

    async def send(self, call: Call) -> Effect:
        """Carry out `call.operation`. Sends at most one write; a byte-identical call sends byte-identical bytes.

        Raises VendorRejected, VendorUnavailable, OutcomeUnknown, VendorThrottled, NotAuthorized, InvalidInput.
        An undo of something that is gone returns `absent` instead of raising.
        """
        ...

    async def find(self, call: Call) -> Effect | None:
        """Look whether an earlier attempt of `call` took effect, by `call.reference`; None: it is not there.

        Only asked for operations declared `find`; changes nothing.
        """
        ...

    async def look(self, call: Call) -> Effect:
        """The present state of what the step did (`call.facts`), asked when a webhook is late or its order matters.

        Returns `done`, `waiting` or `absent`; raises VendorRejected when the vendor meanwhile said no.
        """
        ...


class VerifyWebhook(Protocol):
    """`webhook.verify`: True only for an authentic, fresh message. Never raises on malformed input."""

    def __call__(
        self, body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime
    ) -> bool: ...


class ParseWebhook(Protocol):
    """`webhook.parse`: a verified message in our words; several for sources that batch.

    Raises InvalidInput when the body is not what the vendor documents.
    """

    def __call__(self, body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]: ...


class ProbeVendor(Protocol):
    """`probe.probe`: returns when the account can be used, raises an error of `wedsync.domain.errors` when not.

    One or two cheap reads; for services whose health check is of kind `custom`.
    """

    async def __call__(self, http: VendorHttp, account: Account) -> None: ...


Json = dict[str, JsonValue]
