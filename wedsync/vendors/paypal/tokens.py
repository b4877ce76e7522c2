"""PayPal's access tokens, kept for the whole process (https://developer.paypal.com/api/rest/authentication/)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from wedsync.domain.errors import NotAuthorized, VendorUnavailable
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account

#: A token is renewed so long before it expires.
_MARGIN_SECONDS = 60.0


@dataclass
class _Kept:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    token: str = ""
    #: By the event loop's clock.
    good_until: float = 0.0


# By event loop, because a lock belongs to one; within it by account.
_kept: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, str], _Kept]] = WeakKeyDictionary()


class Tokens:
    """One account's tokens; objects for the same account share them."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        self._http = http
        self._account = account

    async def get(self) -> str:
        """Return a token that is good for a while; one caller at a time fetches it.

        Raises NotAuthorized for bad credentials, VendorUnavailable when none could be had: nothing was sent but this.
        """
        kept = self._slot()
        async with kept.lock:
            if asyncio.get_running_loop().time() >= kept.good_until:
                kept.token, lifetime = await self._fetch()
                kept.good_until = asyncio.get_running_loop().time() + max(lifetime - _MARGIN_SECONDS, 1.0)
            return kept.token

    def forget(self, token: str) -> None:
        """Forget the refused `token`: the next caller gets another."""
        kept = self._slot()
        if kept.token == token:
            kept.good_until = 0.0

    def _slot(self) -> _Kept:
        accounts = _kept.setdefault(asyncio.get_running_loop(), {})
        account = self._account
        return accounts.setdefault((account.base_url, account.client_id, account.client_secret), _Kept())

    async def _fetch(self) -> tuple[str, float]:
        account = self._account
        if not (account.client_id and account.client_secret):
            raise NotAuthorized("paypal: the account has no client id and secret", vendor="paypal", reason="no_client")
        answer = await self._http.request(
            "POST",
            "/v1/oauth2/token",
            # It changes nothing at PayPal, so a lost answer leaves nothing unknown.
            write=False,
            form=[("grant_type", "client_credentials")],
            headers={"Accept": "application/json"},
            auth=(account.client_id, account.client_secret),
        )
        body = answer.json()
        token, lifetime = (body.get("access_token"), body.get("expires_in")) if isinstance(body, dict) else (None, None)
        if not isinstance(token, str) or not isinstance(lifetime, int | float):
            raise VendorUnavailable("paypal gave no access token", vendor="paypal", reason="no_token")
        return token, float(lifetime)
