"""What Stripe sent, by its own list. https://docs.stripe.com/api/events/list: the events of the last 30 days."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.stripe.client import API_VERSION

#: How often to look. Stripe itself tries again for three days (https://docs.stripe.com/webhooks#retries).
EVERY = timedelta(minutes=30)
#: The events that steps wait for.
_TYPES = ("payment_intent.succeeded", "payment_intent.payment_failed")
_PAGE = 100
#: The most pages of one look; the next look goes on from where this one ended.
_MOST_PAGES = 50


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> list[bytes]:
    """The events of `[since, until)` that we listen to, newest first, each as its webhook's body would be.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    found: list[bytes] = []
    for kind in _TYPES:
        found += await _list(http, account, kind, since, until)
    return found


async def _list(http: VendorHttp, account: Account, kind: str, since: datetime, until: datetime) -> list[bytes]:
    window = [
        ("type", kind),
        ("limit", str(_PAGE)),
        ("created[gte]", str(int(since.timestamp()))),
        ("created[lt]", str(int(until.timestamp()))),
    ]
    headers = {"Authorization": f"Bearer {account.api_key}", "Stripe-Version": API_VERSION}
    bodies: list[bytes] = []
    after: list[tuple[str, str]] = []
    for _ in range(_MOST_PAGES):
        page = (await http.request("GET", "/v1/events", params=[*window, *after], headers=headers)).json()
        events = page.get("data") if isinstance(page, dict) else None
        if not isinstance(events, list) or not all(isinstance(one, dict) and "id" in one for one in events):
            raise OutcomeUnknown("stripe listed no events", vendor="stripe")
        bodies += [json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() for one in events]
        if not page.get("has_more") or not events:
            break
        after = [("starting_after", str(events[-1]["id"]))]
    return bodies
