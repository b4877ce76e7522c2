"""Finds what Twilio's status callbacks reported or missed, in its list of messages.

Twilio keeps no list of callbacks, so each message that has reached its end is passed on as its callback would report
it. https://www.twilio.com/docs/messaging/api/message-resource#read-multiple-message-resources
"""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

from wedsync.domain.errors import NotAuthorized, OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import Listed
from wedsync.kit.vendor import Account

#: How often to reconcile. Twilio never sends a callback again (https://www.twilio.com/docs/usage/webhooks/webhooks-faq).
EVERY = timedelta(minutes=5)
_FINAL = frozenset({"delivered", "undelivered", "failed", "read", "canceled"})
_PAGE = 1000
#: Beyond a million messages in two days a reconciliation records what it has seen and begins there again.
_MOST_PAGES = 1000
#: A message is sent for 10 h at most (`ValidityPeriod`), and its end may be reported a while later.
_LONGEST_WAY = timedelta(days=2)


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> Listed:
    """List the final statuses that messages reached in `[since, until)`, each as its callback's body would be.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    if not account.account_id:
        raise NotAuthorized("twilio: the account has no AccountSid", vendor="twilio", reason="missing_account_id")
    user, colon, secret = account.api_key.partition(":")
    auth = (user, secret) if colon else (account.account_id, account.api_key)
    path = f"/2010-04-01/Accounts/{quote(account.account_id, safe='')}/Messages.json"
    params: list[tuple[str, str]] | None = [
        # The filter has whole days: what it lets through is compared here.
        ("DateSent>", (since - _LONGEST_WAY).date().isoformat()),
        ("PageSize", str(_PAGE)),
    ]
    found: list[bytes] = []
    unreadable = 0
    for _ in range(_MOST_PAGES):
        messages, following = _read((await http.request("GET", path, params=params, auth=auth)).json())
        params = None
        for one in messages:
            try:
                if _has_ended(one, since, until):
                    found.append(_callback(one))
            except (ValueError, OverflowError, TypeError, KeyError, AttributeError):
                unreadable += 1
        if following is None:
            return Listed(bodies=tuple(found), until=until, unreadable=unreadable)
        path = following
    return Listed(bodies=tuple(found), until=since, unreadable=unreadable)


def _read(page: Any) -> tuple[list[Any], str | None]:
    messages = page.get("messages") if isinstance(page, dict) else None
    if not isinstance(messages, list):
        raise OutcomeUnknown("twilio listed no messages", vendor="twilio")
    following = page.get("next_page_uri") or None
    if following is not None and (not isinstance(following, str) or not following.startswith("/2010-04-01/")):
        raise OutcomeUnknown("twilio gave a strange address for the next page", vendor="twilio")
    return messages, following


def _has_ended(message: Any, since: datetime, until: datetime) -> bool:
    """Tell whether a message reached its end in the range; raises what a malformed message raises."""
    if message.get("status") not in _FINAL or not str(message.get("direction", "")).startswith("outbound"):
        return False
    return since <= parsedate_to_datetime(str(message.get("date_updated"))) < until


def _callback(message: Any) -> bytes:
    fields = {
        "MessageSid": message["sid"],
        "MessageStatus": message["status"],
        "To": message.get("to"),
        "From": message.get("from"),
        "ErrorCode": message.get("error_code"),
    }
    return urlencode({name: str(value) for name, value in fields.items() if value}).encode()
