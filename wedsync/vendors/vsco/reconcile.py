"""What VSCO's hooks told, or should have: the booked orders, by its list.

https://workspace.vsco.co/api, `GET /order`.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account

#: How often to look. VSCO promises nothing about sending a hook again.
EVERY = timedelta(minutes=15)
_PAGE = 100
#: The most pages of one look; the next look goes on from where this one ended.
_MOST_PAGES = 50


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> list[bytes]:
    """The orders that were booked and last changed in `[since, until)`, each as its hook's body would be.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    headers = {"X-API-KEY": account.api_key, "Accept": "application/json"}
    found: list[bytes] = []
    for page in range(1, _MOST_PAGES + 1):
        params = [("page", str(page)), ("pageSize", str(_PAGE)), ("sortBy", "modified desc")]
        orders = _read((await http.request("GET", "/order", params=params, headers=headers)).json())
        dated = [(order, _modified(order)) for order in orders]
        found += [
            json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()
            for order, moment in dated
            if order.get("bookedOn") and moment is not None and since <= moment < until
        ]
        # The newest come first.
        if len(orders) < _PAGE or any(moment is not None and moment < since for _, moment in dated):
            break
    return found


def _read(body: Any) -> list[dict[str, Any]]:
    items = body.get("items") if isinstance(body, dict) else None
    if not isinstance(items, list) or not all(isinstance(one, dict) and one.get("id") for one in items):
        raise OutcomeUnknown("vsco listed no orders", vendor="vsco")
    return items


def _modified(order: dict[str, Any]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(order.get("modified")))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
