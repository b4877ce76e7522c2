"""Finds what VSCO's hooks reported or missed: the booked orders, by its list.

https://workspace.vsco.co/api, `GET /order`.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import Listed
from wedsync.kit.vendor import Account

#: How often to reconcile. VSCO promises nothing about sending a hook again.
EVERY = timedelta(minutes=15)
_PAGE = 100
#: Beyond that many changed orders a reconciliation records what it has seen, and the next begins there.
_MOST_PAGES = 1000


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> Listed:
    """List the orders that were booked and last changed in `[since, until)`, each as its hook's body would be.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    headers = {"X-API-KEY": account.api_key, "Accept": "application/json"}
    found: list[bytes] = []
    unreadable = 0
    for page in range(1, _MOST_PAGES + 1):
        params = [("page", str(page)), ("pageSize", str(_PAGE)), ("sortBy", "modified desc")]
        orders = _read((await http.request("GET", "/order", params=params, headers=headers)).json())
        dated = [(order, _modified(order)) for order in orders]
        unreadable += sum(moment is None for _, moment in dated)
        found += [
            json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()
            for order, moment in dated
            if moment is not None and order.get("bookedOn") and since <= moment < until
        ]
        # The newest come first.
        if len(orders) < _PAGE or any(moment is not None and moment < since for _, moment in dated):
            return Listed(bodies=tuple(found), until=until, unreadable=unreadable)
    return Listed(bodies=tuple(found), until=since, unreadable=unreadable)


def _read(body: Any) -> list[Any]:
    items = body.get("items") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise OutcomeUnknown("vsco listed no orders", vendor="vsco")
    return items


def _modified(order: Any) -> datetime | None:
    """Return when an order last changed; None when it can't be read as an order."""
    try:
        moment = datetime.fromisoformat(str(order["modified"] if order["id"] else ""))
    except (ValueError, KeyError, TypeError):
        return None
    return moment if moment.tzinfo else None
