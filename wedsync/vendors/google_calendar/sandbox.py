"""Google Calendar's stand-in: events under ids of the caller's choosing, deleted ones remembered."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_ID = re.compile(r"[a-v0-9]{5,1024}")
_SETTABLE = frozenset(
    ("summary", "description", "location", "start", "end", "attendees", "extendedProperties", "colorId", "visibility")
)


def build(context: FakeContext) -> StandIn:
    """Build the stand-in at `context`."""
    google = _Google(context)
    events = "/calendars/{calendar}/events"
    return StandIn(
        routes=[
            Route(events, google.list_changed, methods=["GET"], name="list_events"),
            Route(events, google.insert, methods=["POST"], name="insert_event"),
            Route(f"{events}/{{event_id}}", google.get, methods=["GET"], name="get_event"),
            Route(f"{events}/{{event_id}}", google.patch, methods=["PATCH"], name="update_event"),
            Route(f"{events}/{{event_id}}", google.delete, methods=["DELETE"], name="delete_event"),
            Route("/colors", google.colors, methods=["GET"], name="health"),
        ],
        refuse=_refuse,
        emit=google.emit,
    )


def _error(status: int, reason: str, message: str, domain: str = "global") -> Response:
    errors = [{"domain": domain, "reason": reason, "message": message}]
    return JSONResponse({"error": {"errors": errors, "code": status, "message": message}}, status)


def _refuse(operation: str, request: Request) -> Response | None:
    if operation not in ("insert_event", "update_event"):
        return None
    return _error(
        403, "forbiddenForNonOrganizer", "Shared properties can only be changed by the organizer.", "calendar"
    )


def _unauthorized(request: Request) -> Response | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return None
    return _error(401, "authError", "Invalid Credentials")


def _instant(value: Any) -> datetime:
    """Return the instant that an EventDateTime means; raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("not an EventDateTime")
    if "date" in value:
        return datetime.combine(datetime.fromisoformat(value["date"]), datetime.min.time(), UTC)
    moment = datetime.fromisoformat(value["dateTime"])
    zone = ZoneInfo(value["timeZone"]) if "timeZone" in value else None
    if moment.tzinfo is None and zone is None:
        raise ValueError("neither an offset nor a zone")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _faulty(event: dict[str, Any]) -> Response | None:
    for name in ("start", "end"):
        if name not in event:
            return _error(400, "required", f"Missing {name} time.")
    try:
        starts, ends = _instant(event["start"]), _instant(event["end"])
    except (ValueError, KeyError, TypeError, OSError):
        return _error(400, "invalid", "Invalid start or end time.")
    if ends < starts:
        return _error(400, "timeRangeEmpty", "The specified time range is empty.", "calendar")
    for attendee in event.get("attendees", []):
        if not isinstance(attendee, dict) or "@" not in str(attendee.get("email", "")):
            return _error(400, "invalid", "Invalid attendee email.")
    return None


async def _read(request: Request) -> dict[str, Any] | None:
    try:
        body = json.loads(await request.body())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


class _Google:
    def __init__(self, context: FakeContext) -> None:
        self._context = context
        self._channel = str(uuid4())
        #: The first message of a channel is its `sync`.
        self._message = 1

    async def colors(self, request: Request) -> Response:
        return _unauthorized(request) or JSONResponse({"kind": "calendar#colors", "calendar": {}, "event": {}})

    async def insert(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        body = await _read(request)
        if body is None:
            return _error(400, "parseError", "Parse Error")
        calendar = request.path_params["calendar"]
        event_id = body.get("id") or hashlib.sha256(str(len(self._context.objects)).encode()).hexdigest()[:26]
        if not isinstance(event_id, str) or not _ID.fullmatch(event_id):
            return _error(400, "invalid", "Invalid resource id value.")
        faulty = _faulty(body)
        if faulty:
            return faulty
        if _key(calendar, event_id) in self._context.objects:
            return _error(409, "duplicate", "The requested identifier already exists.")
        owner = {"email": calendar if "@" in calendar else "planner@example.com", "self": True}
        now = _stamp(self._context.now())
        event = {
            "kind": "calendar#event",
            "id": event_id,
            "status": "confirmed",
            "htmlLink": f"https://www.google.com/calendar/event?eid={event_id}",
            "created": now,
            "creator": owner,
            "organizer": owner,
            "iCalUID": f"{event_id}@google.com",
            "sequence": 0,
            "reminders": {"useDefault": True},
            "eventType": "default",
        }
        self._keep(calendar, {**event, **_settable(body)})
        self._context.record(request, event_id, "insert_event")
        return JSONResponse(self._context.objects[_key(calendar, event_id)]["event"])

    async def list_changed(self, request: Request) -> Response:
        """List events by `updatedMin`, with deleted ones and in the order of `updated` when asked for, page by page."""
        denied = _unauthorized(request)
        if denied:
            return denied
        query_key, calendar = request.query_params, request.path_params["calendar"]
        since = datetime.fromisoformat(query_key.get("updatedMin", "1970-01-01T00:00:00Z"))
        kept = (one["event"] for one in self._context.objects.values() if one["calendar"] == calendar)
        events = [
            event
            for event in kept
            if datetime.fromisoformat(event["updated"]) >= since
            and (event["status"] != "cancelled" or query_key.get("showDeleted") == "true")
        ]
        if query_key.get("orderBy") == "updated":
            events.sort(key=lambda event: event["updated"])
        start, size = int(query_key.get("pageToken", "0")), int(query_key.get("maxResults", "250"))
        more = {"nextPageToken": str(start + size)} if start + size < len(events) else {}
        return JSONResponse({"kind": "calendar#events", "items": events[start : start + size], **more})

    async def get(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        event = self._known(request)
        return JSONResponse(event) if event else _error(404, "notFound", "Not Found")

    async def patch(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        event = self._known(request)
        if event is None or event["status"] == "cancelled":
            return _error(404, "notFound", "Not Found")
        expected = request.headers.get("if-match")
        if expected not in (None, "*", event["etag"]):
            return _error(412, "conditionNotMet", "Precondition Failed")
        body = await _read(request)
        if body is None:
            return _error(400, "parseError", "Parse Error")
        changed = {**event, **_settable(body)}
        faulty = _faulty(changed)
        if faulty:
            return faulty
        if any(changed[name] != event[name] for name in ("start", "end")):
            changed["sequence"] += 1
        self._keep(request.path_params["calendar"], changed)
        return JSONResponse(self._known(request))

    async def delete(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        event = self._known(request)
        if event is None:
            return _error(404, "notFound", "Not Found")
        if event["status"] == "cancelled":
            return _error(410, "deleted", "Resource has been deleted")
        self._keep(request.path_params["calendar"], {**event, "status": "cancelled"})
        self._context.undo(event["id"])
        return Response(status_code=204)

    def _known(self, request: Request) -> dict[str, Any] | None:
        kept = self._context.objects.get(_key(request.path_params["calendar"], request.path_params["event_id"]))
        return kept["event"] if kept else None

    def _keep(self, calendar: str, event: dict[str, Any]) -> None:
        key = _key(calendar, event["id"])
        version = self._context.objects.get(key, {"version": 0})["version"] + 1
        updated = event["created"] if version == 1 else _stamp(self._context.now())
        event = {**event, "updated": updated, "etag": f'"{3400000000000000 + version * 2}"'}
        self._context.objects[key] = {"event": event, "version": version, "calendar": calendar}

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a notification (`exists`, `not_exists`, `sync`) of the calendar that holds the event."""
        kept = next((one for one in self._context.objects.values() if one["event"]["id"] == object_id), None)
        if kept is None and object_id is not None:
            raise KeyError(object_id)
        calendar = kept["calendar"] if kept else "primary"
        self._message += event != "sync"
        headers = {
            "Content-Type": "application/json; utf-8",
            "X-Goog-Channel-ID": self._channel,
            "X-Goog-Channel-Token": "another token" if bad_signature else self._context.webhook_secret,
            "X-Goog-Resource-ID": hashlib.sha256(calendar.encode()).hexdigest()[:20],
            "X-Goog-Resource-URI": f"https://www.googleapis.com/calendar/v3/calendars/{calendar}/events?alt=json",
            "X-Goog-Resource-State": event,
            "X-Goog-Message-Number": "1" if event == "sync" else str(self._message),
        }
        return self._context.webhook_url, headers, b""


def _key(calendar: str, event_id: str) -> str:
    return f"{calendar}/{event_id}"


def _settable(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in _SETTABLE}


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
