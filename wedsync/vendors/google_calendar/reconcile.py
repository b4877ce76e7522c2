"""Finds the changes of our events that Google's notifications reported or missed, in the calendar's list.

https://developers.google.com/workspace/calendar/api/v3/reference/events/list. Google never sends a notification again,
and a notification says only that something changed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import MOST_PAGES, Listed, moment
from wedsync.kit.vendor import Account

#: Its webhooks only say that something changed. The list shows what did, so each webhook has it read.
BY_LIST_ALONE = True
#: How often to reconcile.
EVERY = timedelta(minutes=15)
_PAGE = 250
#: An event that was last changed so soon after it was made has not been changed since.
_AT_ONCE = timedelta(seconds=2)


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> Listed:
    """List our events that were changed or deleted in `[since, until)`, or its older part, each as Google describes it.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    path = f"/calendars/{quote(account.account_id or 'primary', safe='')}/events"
    headers = {"Authorization": f"Bearer {account.api_key}"}
    params = [
        ("updatedMin", since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"),
        ("orderBy", "updated"),
        ("showDeleted", "true"),
        ("maxResults", str(_PAGE)),
    ]
    found: list[bytes] = []
    unreadable, token, reached = 0, "", since
    for _ in range(MOST_PAGES):
        page = [*params, ("pageToken", token)] if token else params
        body = (await http.request("GET", path, params=page, headers=headers)).json()
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list):
            raise OutcomeUnknown("google_calendar listed no events", vendor="google_calendar")
        for one in items:
            updated = moment(one.get("updated")) if isinstance(one, dict) else None
            if updated is None:
                unreadable += 1
                continue
            reached = max(reached, updated)
            if since <= updated < until and _is_newer(one, updated):
                found.append(json.dumps(one, separators=(",", ":")).encode())
        token = str(body.get("nextPageToken") or "")
        if not token or reached >= until:
            return Listed(bodies=tuple(found), until=until, unreadable=unreadable)
    # The oldest come first: what is left out is newer than the last one seen.
    return Listed(bodies=tuple(found), until=reached, unreadable=unreadable)


def _is_newer(event: dict[str, Any], updated: datetime) -> bool:
    """Tell whether an item is one of our events and somebody changed it after it was made."""
    extended = event.get("extendedProperties")
    private = extended.get("private") if isinstance(extended, dict) else None
    if not isinstance(private, dict) or "wedding_id" not in private:
        return False
    created = moment(event.get("created"))
    return created is None or updated - created > _AT_ONCE or event.get("status") == "cancelled"
