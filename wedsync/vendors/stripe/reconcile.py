"""Lists what Stripe sent, by its own list. https://docs.stripe.com/api/events/list: the events of the last 30 days."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import Listed, Pages, newest_first
from wedsync.kit.vendor import Account
from wedsync.vendors.stripe.client import API_VERSION

#: How often to reconcile. Stripe itself tries again for three days (https://docs.stripe.com/webhooks#retries).
EVERY = timedelta(minutes=30)
#: The events that steps wait for.
_TYPES = ("payment_intent.succeeded", "payment_intent.payment_failed")
_PAGE = 100


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> Listed:
    """List the events of `[since, until)` that we listen to, or of its older part.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    lists = [await newest_first(partial(_read, http, account, kind), since, until) for kind in _TYPES]
    return Listed(
        bodies=tuple(body for one in lists for body in one.bodies),
        until=min(one.until for one in lists),
        unreadable=sum(one.unreadable for one in lists),
    )


async def _read(http: VendorHttp, account: Account, kind: str, since: datetime, until: datetime, most: int) -> Pages:
    window = [
        ("type", kind),
        ("limit", str(_PAGE)),
        ("created[gte]", str(int(since.timestamp()))),
        ("created[lt]", str(int(until.timestamp()))),
    ]
    headers = {"Authorization": f"Bearer {account.api_key}", "Stripe-Version": API_VERSION}
    bodies: list[bytes] = []
    unreadable = 0
    after: list[tuple[str, str]] = []
    for _ in range(most):
        page = (await http.request("GET", "/v1/events", params=[*window, *after], headers=headers)).json()
        events = page.get("data") if isinstance(page, dict) else None
        if not isinstance(events, list):
            raise OutcomeUnknown("stripe listed no events", vendor="stripe")
        good = [one for one in events if isinstance(one, dict) and isinstance(one.get("id"), str)]
        unreadable += len(events) - len(good)
        bodies += [json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() for one in good]
        if not page.get("has_more") or not good:
            return Pages(bodies=tuple(bodies), unreadable=unreadable)
        after = [("starting_after", good[-1]["id"])]
    return Pages(bodies=tuple(bodies), unreadable=unreadable, reached=_created(good[-1], since))


def _created(event: dict[str, Any], otherwise: datetime) -> datetime:
    created = event.get("created")
    return datetime.fromtimestamp(created, UTC) if isinstance(created, int) and 0 < created < 10**11 else otherwise
