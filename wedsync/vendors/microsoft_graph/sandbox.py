"""Outlook calendars behind Microsoft Graph: one mailbox per user, `me` among them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_FILTER = re.compile(
    r"singleValueExtendedProperties/any\(\s*(\w+)\s*:\s*"
    r"\1/id eq '((?:[^']|'')+)' and \1/value eq '((?:[^']|'')*)'\s*\)",
    re.IGNORECASE,
)
_WRITABLE = {
    "subject", "body", "start", "end", "location", "attendees", "transactionId", "singleValueExtendedProperties",
    "isAllDay", "showAs", "categories", "importance", "sensitivity", "isReminderOn", "reminderMinutesBeforeStart",
    "allowNewTimeProposals", "hideAttendees", "responseRequested",
}  # fmt: skip


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def _moment(value: dict[str, Any]) -> datetime:
    """Read a dateTimeTimeZone; raises ValueError, KeyError, TypeError or ZoneInfoNotFoundError for a malformed one."""
    return datetime.fromisoformat(value["dateTime"]).replace(tzinfo=ZoneInfo(value.get("timeZone") or "UTC"))


class _Graph:
    def __init__(self, context: FakeContext) -> None:
        self.context = context

    def user(self, request: Request) -> str:
        return str(request.path_params.get("user", "me"))

    def stored(self, request: Request) -> dict[str, Any] | None:
        event = self.context.objects.get(request.path_params["event_id"])
        return event if event is not None and event["user"] == self.user(request) else None

    def shown(self, event: dict[str, Any]) -> dict[str, Any]:
        shown = {name: event[name] for name in _WRITABLE & event.keys() if name != "singleValueExtendedProperties"}
        for edge in ("start", "end"):
            moment = _moment(event[edge]).astimezone(UTC).replace(tzinfo=None)
            shown[edge] = {"dateTime": f"{moment.isoformat(timespec='seconds')}.0000000", "timeZone": "UTC"}
        return shown | {
            "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users('me')/events/$entity",
            "@odata.etag": f'W/"{event["changeKey"]}"',
            "id": event["id"],
            "changeKey": event["changeKey"],
            "createdDateTime": event["created"],
            "lastModifiedDateTime": event["modified"],
            "iCalUId": f"040000008200E00074C5B7101A82E008{event['id'][-16:]}",
            "isCancelled": False,
            "isOrganizer": True,
            "type": "singleInstance",
            "webLink": f"https://outlook.office365.com/owa/?itemid={quote(event['id'])}&exvsurl=1&path=/calendar/item",
            "bodyPreview": str((event.get("body") or {}).get("content", ""))[:255],
        }

    def touch(self, event: dict[str, Any]) -> None:
        event["modified"] = self.context.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        event["changeKey"] = secrets.token_urlsafe(16)

    async def create(self, request: Request) -> Response:
        body = await _json(request)
        if refusal := self.refusal(body, required=True):
            return refusal
        twin = self.twin(self.user(request), body.get("transactionId"))
        if twin is not None:
            return JSONResponse(self.shown(twin), 201)
        event = body | {"id": f"AAMkAG{secrets.token_urlsafe(48)}=", "user": self.user(request)}
        self.touch(event)
        event["created"] = event["modified"]
        self.context.objects[event["id"]] = event
        self.context.record(request, event["id"], "create_event")
        return JSONResponse(self.shown(event), 201, {"Location": f"{request.url}/{quote(event['id'])}"})

    def twin(self, user: str, transaction_id: str | None) -> dict[str, Any] | None:
        """Find the event that an earlier attempt with this transactionId made."""
        events = self.context.objects.values()
        same = (e for e in events if e["user"] == user and e.get("transactionId") == transaction_id)
        return next(same, None) if transaction_id else None

    async def page(self, request: Request) -> Response:
        wanted = request.query_params.get("$filter")
        events = [event for event in self.context.objects.values() if event["user"] == self.user(request)]
        if wanted is not None:
            match = _FILTER.fullmatch(wanted.strip())
            if match is None:
                return _error(400, "BadRequest", "Invalid filter clause")
            name, value = (match[number].replace("''", "'") for number in (2, 3))
            events = [event for event in events if _has(event, name, value)]
        top = int(request.query_params.get("$top", "10"))
        return JSONResponse({"value": [self.shown(event) for event in events[:top]]})

    async def get(self, request: Request) -> Response:
        event = self.stored(request)
        return JSONResponse(self.shown(event)) if event else _gone()

    async def update(self, request: Request) -> Response:
        event, body = self.stored(request), await _json(request)
        if event is None:
            return _gone()
        if refusal := self.refusal(body, required=False):
            return refusal
        if "transactionId" in body:
            return _error(400, "ErrorInvalidProperty", "transactionId can't be changed")
        if _moment({**event, **body}["end"]) < _moment({**event, **body}["start"]):
            return _error(400, "ErrorCalendarEndDateIsEarlierThanStartDate", "ends before it starts")
        event.update(body)
        self.touch(event)
        return JSONResponse(self.shown(event))

    async def delete(self, request: Request) -> Response:
        event = self.stored(request)
        if event is None:
            return _gone()
        if_match = request.headers.get("if-match", "*")
        if if_match not in ("*", f'W/"{event["changeKey"]}"'):
            return _error(412, "ErrorIrresolvableConflict", "the event was changed")
        del self.context.objects[event["id"]]
        self.context.undo(event["id"])
        return Response(status_code=204)

    @staticmethod
    def refusal(body: Any, *, required: bool) -> Response | None:
        if not isinstance(body, dict) or body.keys() - _WRITABLE:
            return _error(400, "RequestBodyRead", "a property does not exist on type 'microsoft.graph.event'")
        try:
            edges = [_moment(body[name]) for name in ("start", "end") if required or name in body]
        except ZoneInfoNotFoundError:
            return _error(400, "TimeZoneNotSupportedException", "a time zone is not supported")
        except (ValueError, KeyError, TypeError):
            return _error(400, "ErrorPropertyValidationFailure", "start or end is missing or malformed")
        if len(edges) == 2 and edges[1] < edges[0]:
            return _error(400, "ErrorCalendarEndDateIsEarlierThanStartDate", "ends before it starts")
        return None

    def emit(self, change: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a notification that the event was `created`, `updated` or `deleted`; KeyError for an unknown event."""
        event = self.context.objects[object_id or next(reversed(self.context.objects), "")]
        notification = {
            "id": secrets.token_urlsafe(12),
            "subscriptionId": "0fc0d6db-0073-42e5-a186-853da75fb308",
            "subscriptionExpirationDateTime": "2099-01-01T00:00:00.0000000Z",
            "clientState": "not-the-state" if bad_signature else self.context.webhook_secret,
            "changeType": change,
            "resource": f"Users/{event['user']}/Events/{event['id']}",
            "tenantId": "84bd8158-6d4d-4958-8b9f-9d6445542f95",
            "resourceData": {
                "@odata.type": "#Microsoft.Graph.Event",
                "@odata.id": f"Users/{event['user']}/Events/{event['id']}",
                "@odata.etag": f'W/"{event["changeKey"]}"',
                "id": event["id"],
            },
        }
        body = json.dumps({"value": [notification]}).encode()
        return self.context.webhook_url, {"Content-Type": "application/json"}, body


def _has(event: dict[str, Any], name: str, value: str) -> bool:
    # Names compare by case, values don't.
    properties = event.get("singleValueExtendedProperties") or []
    return any(one.get("id") == name and str(one.get("value")).lower() == value.lower() for one in properties)


def _gone() -> JSONResponse:
    return _error(404, "ErrorItemNotFound", "The specified object was not found in the store.")


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        return None


def _authorized(act: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or token.startswith("revoked"):
            return _error(401, "InvalidAuthenticationToken", "Access token is empty or expired.")
        return await act(request)

    return endpoint


def build(context: FakeContext) -> StandIn:
    """Build the stand-in for all mailboxes of a tenant."""
    graph = _Graph(context)

    def refuse(operation: str, request: Request) -> Response | None:
        return _error(403, "ErrorAccessDenied", "Access is denied.") if operation == "create_event" else None

    routes = []
    for events in ("/me/events", "/users/{user}/events"):
        one = f"{events}/{{event_id}}"
        routes += [
            Route(events, _authorized(graph.create), methods=["POST"], name="create_event"),
            Route(events, _authorized(graph.page), methods=["GET"], name="list_events"),
            Route(one, _authorized(graph.get), methods=["GET"], name="get_event"),
            Route(one, _authorized(graph.update), methods=["PATCH"], name="update_event"),
            Route(one, _authorized(graph.delete), methods=["DELETE"], name="delete_event"),
        ]
    return StandIn(routes=routes, refuse=refuse, emit=graph.emit)
