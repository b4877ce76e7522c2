"""Define what a vendor's package must offer: `client.py`, `webhook.py` and `sandbox.py` by these protocols.

A package is found by its `manifest.toml`, and its parts by their names: `client.Client`, `sandbox.build`, and, where
they exist, `webhook.verify` and `webhook.parse` (with `webhook.handshake` and `webhook.prepare`), `probe.probe`,
`tokens.Tokens`, and `reconcile.list_events` with `reconcile.EVERY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import Field, JsonValue

from wedsync.domain.value import Value
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.http import VendorHttp


class Account(Value):
    """One account at a vendor: its address and its credential."""

    vendor: str
    name: str = "default"
    base_url: str
    api_key: str = Field(default="", repr=False)
    account_id: str = ""
    client_id: str = ""
    client_secret: str = Field(default="", repr=False)
    webhook_secrets: tuple[str, ...] = Field(default=(), repr=False)
    #: The address to which the vendor sends its webhooks (status callbacks).
    webhook_url: str = ""
    #: The version of the vendor's API to request; empty: the client's own.
    api_version: str = ""
    #: The request header that requests it, where the manifest names one.
    api_version_header: str = ""


class VendorClient(Protocol):
    """Speaks one vendor's wire format; holds no state but tokens. Raises only `wedsync.domain.errors`."""

    def __init__(self, http: VendorHttp, account: Account) -> None: ...

    async def send(self, call: Call) -> Effect:
        """Carry out `call.operation`. Sends at most one write; a byte-identical call sends byte-identical bytes.

        Raises VendorRejected, VendorUnavailable, OutcomeUnknown, VendorThrottled, NotAuthorized, InvalidInput.
        A compensation of something that is gone returns `absent` instead of raising.
        """
        ...

    async def find(self, call: Call) -> Effect | None:
        """Find whether an earlier attempt of `call` took effect, by `call.reference`; None: it is not there.

        Called only for operations declared `find`; changes nothing.
        """
        ...

    async def inspect(self, call: Call) -> Effect:
        """Return the present state of what the step did (`call.facts`), when a webhook is late or its order matters.

        Returns `done`, `waiting` or `absent`; raises VendorRejected when the vendor has since refused.
        """
        ...


class VerifyWebhook(Protocol):
    """Verifies a message (`webhook.verify`): True only for an authentic, fresh one. Never raises on malformed input."""

    def __call__(
        self, body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime
    ) -> bool: ...


class ParseWebhook(Protocol):
    """Translates a verified message (`webhook.parse`) to our terms; several for sources that batch.

    Raises InvalidInput when the body is not what the vendor documents.
    """

    def __call__(self, body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]: ...


class ProbeVendor(Protocol):
    """Probes an account (`probe.probe`): returns when it is usable, else raises an error of `wedsync.domain.errors`.

    One or two cheap reads; for vendors whose health check is of kind `custom`.
    """

    async def __call__(self, http: VendorHttp, account: Account) -> None: ...


Json = dict[str, JsonValue]
