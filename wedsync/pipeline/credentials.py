"""Authorize a request to the platform's account, for callers that speak to a vendor without its client."""

from __future__ import annotations

import base64
import importlib
from typing import Protocol, cast

from wedsync.domain.errors import NotAuthorized
from wedsync.domain.value import Value
from wedsync.domain.vendors.manifest import Manifest
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account


class Tokens(Protocol):
    """Gets the access tokens of one account and keeps them for the process; a vendor's `tokens.py` provides it."""

    def __init__(self, http: VendorHttp, account: Account) -> None: ...

    async def get(self) -> str:
        """Return a token that is valid for a while; raises NotAuthorized, VendorUnavailable."""
        ...

    def forget(self, token: str) -> None:
        """Forget `token`, which the vendor refused."""
        ...


class Credential(Value):
    """Headers and parameters that authorize one request."""

    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, str], ...] = ()
    #: The access token among the headers, where it is to be forgotten once the vendor refuses it.
    token: str = ""


def tokens_of(manifest: Manifest, http: VendorHttp, account: Account) -> Tokens:
    """Return the access tokens of an `oauth_client` vendor's account; raises NotAuthorized when the vendor has none."""
    try:
        module = importlib.import_module(f"wedsync.vendors.{manifest.name}.tokens")
    except ModuleNotFoundError:
        raise _missing(manifest.name) from None
    return cast("type[Tokens]", module.Tokens)(http, account)


async def authorize(manifest: Manifest, http: VendorHttp, account: Account) -> Credential:
    """Return the account's credential as the manifest's `[auth]` says.

    Raises NotAuthorized when the account has none or the vendor refuses it, VendorUnavailable when it gives no token.
    """
    auth = manifest.auth
    named = [(name, str(getattr(account, field))) for name, field in auth.params.items()]
    params = tuple((name, value) for name, value in named if value)
    match auth.kind:
        case "none":
            return Credential(params=params)
        case "oauth_client":
            token = await tokens_of(manifest, http, account).get()
            return Credential(headers=(("authorization", f"Bearer {token}"),), params=params, token=token)
        case "query" if params and len(params) == len(named):
            return Credential(params=params)
        case "bearer" | "basic" | "header" if account.api_key:
            return Credential(headers=_headers(manifest, account), params=params)
        case _:
            raise _missing(manifest.name)


def _headers(manifest: Manifest, account: Account) -> tuple[tuple[str, str], ...]:
    if manifest.auth.kind == "header":
        return ((manifest.auth.header.lower(), account.api_key),)
    if manifest.auth.kind == "bearer":
        return (("authorization", f"Bearer {account.api_key}"),)
    # A key of its own, `user:secret`, or the account's one secret.
    pair = account.api_key if ":" in account.api_key else f"{account.account_id}:{account.api_key}"
    return (("authorization", "Basic " + base64.b64encode(pair.encode()).decode()),)


def _missing(vendor: str) -> NotAuthorized:
    return NotAuthorized(f"{vendor}: the platform's account has no credential", vendor=vendor, reason="no_credential")
