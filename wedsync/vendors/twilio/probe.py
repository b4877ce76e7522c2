"""Checks whether the Twilio account may send: a suspended or closed one still answers.

https://www.twilio.com/docs/iam/api/account#account-properties
"""

from __future__ import annotations

from urllib.parse import quote

from wedsync.domain.errors import NotAuthorized, VendorUnavailable
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.twilio import mapping


async def probe(http: VendorHttp, account: Account) -> None:
    """Read the account. Raises NotAuthorized unless it is active, and what `VendorHttp.request` raises."""
    http.read_error = mapping.read_error
    user, colon, secret = account.api_key.partition(":")
    path = f"/2010-04-01/Accounts/{quote(account.account_id, safe='')}.json"
    auth = (user, secret) if colon else (account.account_id, account.api_key)
    answer = (await http.request("GET", path, auth=auth)).json()
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, str):
        raise VendorUnavailable("twilio: the answer is no account", vendor="twilio", reason="odd_answer")
    if status != "active":
        raise NotAuthorized(f"twilio: the account is {status[:20]}", vendor="twilio", reason="account_not_active")
