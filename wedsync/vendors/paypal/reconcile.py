"""Lists what PayPal sent, by its own list: the events of the last 30 days.

https://developer.paypal.com/docs/api/webhooks/v1/#webhooks-events_list
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from wedsync.domain.errors import NotAuthorized, OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import Listed, Pages, moment, newest_first
from wedsync.kit.vendor import Account
from wedsync.vendors.paypal.tokens import Tokens

#: How often to reconcile. PayPal itself tries again, 25 times over three days.
EVERY = timedelta(minutes=30)
_PATH = "/v1/notifications/webhooks-events"
_PAGE = 100


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> Listed:
    """List the events of `[since, until]`, or of its older part, each as its webhook's body would be.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    return await newest_first(partial(_read, http, Tokens(http, account)), since, until)


async def _read(http: VendorHttp, tokens: Tokens, since: datetime, until: datetime, most: int) -> Pages:
    window = {"start_time": _stamp(since), "end_time": _stamp(until), "page_size": str(_PAGE)}
    path, params = _PATH, [*window.items()]
    bodies: list[bytes] = []
    unreadable, oldest = 0, until
    for _ in range(most):
        page = await _page(http, tokens, path, params)
        events = page.get("events")
        if not isinstance(events, list):
            raise OutcomeUnknown("paypal listed no events", vendor="paypal")
        good = [one for one in events if isinstance(one, dict) and "id" in one]
        unreadable += len(events) - len(good)
        bodies += [json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() for one in good]
        oldest = min([oldest, *(made_at for one in good if (made_at := moment(one.get("create_time"))) is not None)])
        following = _next(page)
        if not events or following is None:
            return Pages(bodies=tuple(bodies), unreadable=unreadable)
        path, params = following, []
    return Pages(bodies=tuple(bodies), unreadable=unreadable, reached=oldest)


async def _page(http: VendorHttp, tokens: Tokens, path: str, params: list[tuple[str, str]]) -> dict[str, Any]:
    token = await tokens.get()
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    try:
        answer = (await http.request("GET", path, params=params or None, headers=headers)).json()
    except NotAuthorized:
        tokens.forget(token)
        raise
    if not isinstance(answer, dict):
        raise OutcomeUnknown("paypal listed no events", vendor="paypal")
    return answer


def _next(page: dict[str, Any]) -> str | None:
    """Return path and query of the next page: only those, so that no answer sends our token elsewhere."""
    links = page.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            address = urlsplit(link["href"])
            return f"{_PATH}?{address.query}" if address.path.endswith(_PATH) and address.query else None
    return None


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
