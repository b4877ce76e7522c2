"""What Google's notifications told of, or should have: the changed events of ours, by the calendar's list.

https://developers.google.com/workspace/calendar/api/v3/reference/events/list. A notification is never sent again, and
says only that something changed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from wedsync.domain.errors import OutcomeUnknown
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account

#: How often to look.
EVERY = timedelta(minutes=15)
_PAGE = 250
#: The most pages of one look; the next look goes on from where this one ended.
_MOST_PAGES = 50
#: An event that was last changed so soon after it was made has not been changed since.
_AT_ONCE = timedelta(seconds=2)


async def list_events(http: VendorHttp, account: Account, since: datetime, until: datetime) -> list[bytes]:
    """Our events that were changed or deleted in `[since, until)`, each as Google describes it.

    Raises the vendor errors of `wedsync.domain.errors`.
    """
    path = f"/calendars/{quote(account.account_id or 'primary', safe='')}/events"
    headers = {"Authorization": f"Bearer {account.api_key}"}
    params = [
        ("updatedMin", since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
        ("showDeleted", "true"),
        ("maxResults", str(_PAGE)),
    ]
    found: list[bytes] = []
    token = ""
    for _ in range(_MOST_PAGES):
        page = [*params, ("pageToken", token)] if token else params
        body = (await http.request("GET", path, params=page, headers=headers)).json()
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list):
            raise OutcomeUnknown("google_calendar listed no events", vendor="google_calendar")
        found += [json.dumps(one, separators=(",", ":")).encode() for one in items if _is_news(one, since, until)]
        token = str(body.get("nextPageToken") or "")
        if not token:
            break
    return found


def _is_news(event: Any, since: datetime, until: datetime) -> bool:
    """Whether it is one of ours and somebody changed it in this time."""
    extended = event.get("extendedProperties") if isinstance(event, dict) else None
    private = extended.get("private") if isinstance(extended, dict) else None
    if not isinstance(private, dict) or "wedding_id" not in private:
        return False
    updated, created = _moment(event.get("updated")), _moment(event.get("created"))
    if updated is None or not since <= updated < until:
        return False
    return created is None or updated - created > _AT_ONCE or event.get("status") == "cancelled"


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
