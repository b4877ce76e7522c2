"""A studio in VSCO Workspace: jobs, their events, and the hook that reports a booked order.

VSCO itself never refuses a date: two jobs may stand on one day. A `lead` that gets an event is booked by the studio a
moment later.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from ulid import ULID

from wedsync.kit.standin import FakeContext, StandIn

_STAGES = ("lead", "booked", "fulfillment", "completed")
_JOB_FIELDS = {"name", "eventDate", "guestCount", "leadNotes", "stage", "externalMappings", "closed", "bookingDate"}
_EVENT_FIELDS = {
    "name", "channel", "startDate", "startTime", "endDate", "endTime", "timezoneName", "confirmed", "jobId",
    "externalMappings", "allDay", "descriptionHtml", "location", "virtualUrl",
}  # fmt: skip


def _problem(status: int, kind: str, title: str, detail: Any = "") -> JSONResponse:
    return JSONResponse({"type": kind, "title": title, "detail": detail, "status": status}, status)


def _invalid(**fields: str) -> JSONResponse:
    return _problem(400, "validation-error", "Validation Error", dict(fields))


def _missing() -> JSONResponse:
    return _problem(404, "unknown", "Not Found", "The requested resource does not exist.")


def _new_id() -> str:
    return str(ULID()).lower()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Studio:
    def __init__(self, context: FakeContext) -> None:
        self.context = context

    def of(self, kind: str, object_id: str) -> dict[str, Any] | None:
        found = self.context.objects.get(object_id)
        return found if found is not None and found["kind"] == kind else None

    def shown(self, stored: dict[str, Any]) -> dict[str, Any]:
        shown = {name: value for name, value in stored.items() if name not in ("kind", "bookedAt")}
        if stored["kind"] == "job":
            booked_at = stored.get("bookedAt")
            if stored["stage"] == "lead" and booked_at is not None and self.context.now() >= booked_at:
                shown["stage"] = "booked"
            shown["title"] = stored.get("name")
        elif stored["kind"] == "event":
            shown |= _utc(stored)
        shown["links"] = {"self": {"href": f"https://workspace.vsco.co/api/v2/{stored['kind']}/{stored['id']}"}}
        return shown

    def create(self, kind: str, request: Request, body: dict[str, Any]) -> Response:
        if refusal := self.refusal(kind, body):
            return refusal
        now = _stamp(self.context.now())
        job_defaults = {"stage": "lead", "closed": False, "webLead": False}
        defaults: dict[str, Any] = job_defaults if kind == "job" else {"allDay": False}
        stored = defaults | body | {"id": _new_id(), "created": now, "modified": now, "kind": kind}
        self.context.objects[stored["id"]] = stored
        self.context.record(request, stored["id"], "create_job" if kind == "job" else "add_event")
        if kind == "event" and (job := self.of("job", body.get("jobId") or "")) and job["stage"] == "lead":
            job["bookedAt"] = self.context.now() + timedelta(seconds=self.context.webhook_delay_seconds)
            url, headers, hook = self.hook("order.booked", job, bad_signature=False)
            self.context.send(url, headers, hook, self.context.webhook_delay_seconds)
        return JSONResponse(self.shown(stored), 201)

    def update(self, kind: str, request: Request, body: dict[str, Any]) -> Response:
        stored = self.of(kind, request.path_params["id"])
        if stored is None:
            return _missing()
        if refusal := self.refusal(kind, stored | body, received=body):
            return refusal
        # External mappings can't be updated (API v2).
        stored.update({name: value for name, value in body.items() if name != "externalMappings"})
        stored["modified"] = _stamp(self.context.now())
        return JSONResponse(self.shown(stored))

    def delete(self, kind: str, request: Request) -> Response:
        stored = self.of(kind, request.path_params["id"])
        if stored is None:
            return _missing()
        del self.context.objects[stored["id"]]
        self.context.undo(stored["id"])
        return Response(status_code=204)

    def get(self, kind: str, request: Request) -> Response:
        stored = self.of(kind, request.path_params["id"])
        return JSONResponse(self.shown(stored)) if stored else _missing()

    def list(self, kind: str, request: Request) -> Response:
        query = request.query_params
        page, size = int(query.get("page", "1")), int(query.get("pageSize", "100"))
        if page < 1 or not 10 <= size <= 100:
            return _invalid(pageSize="must be between 10 and 100")
        wanted = query.get("externalMappingId")
        items = [
            self.shown(stored)
            for stored in self.context.objects.values()
            if stored["kind"] == kind
            and (wanted is None or any(m["id"] == wanted for m in stored.get("externalMappings") or []))
            and (not stored.get("closed") or query.get("includeClosed") == "true")
        ]
        if query.get("sortBy") == "modified desc":
            items.sort(key=lambda item: str(item["modified"]), reverse=True)
        rows = items[(page - 1) * size : page * size]
        pages = -(-len(items) // size)
        meta = {"currentPage": page, "totalPages": pages, "totalItems": len(items), "rows": len(rows)}
        return JSONResponse({"type": f"{kind}-collection", "meta": meta, "items": rows})

    def refusal(self, kind: str, body: dict[str, Any], received: dict[str, Any] | None = None) -> Response | None:
        """Refuse what VSCO's own validation refuses."""
        allowed = _JOB_FIELDS if kind == "job" else _EVENT_FIELDS
        if unknown := (received or body).keys() - allowed:
            return _invalid(**dict.fromkeys(unknown, "is not a known or writable property"))
        for mapping in body.get("externalMappings") or []:
            if not 1 <= len(mapping.get("id", "")) <= 64 or not 12 <= len(mapping.get("url", "")) <= 255:
                return _invalid(externalMappings="id and url are required")
        if kind == "job":
            return None if body.get("stage", "lead") in _STAGES else _invalid(stage="unknown stage")
        if len(body.get("name") or "") > 255:
            return _invalid(name="is too long")
        if body.get("jobId") and self.of("job", body["jobId"]) is None:
            return _invalid(jobId="no such job")
        try:
            times = _utc(body)
        except (ValueError, ZoneInfoNotFoundError):
            return _invalid(startTime="date, time or time zone is malformed")
        if times["startUtc"] and times["endUtc"] and times["endUtc"] < times["startUtc"]:
            return _invalid(endTime="ends before it starts")
        return None

    def hook(self, event: str, job: dict[str, Any], *, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a REST hook's post: the resource itself, to the URL with its token."""
        now = self.context.now()
        resource: dict[str, Any] = self.shown(job)
        if event == "order.booked":
            resource = {
                "id": _new_id(),
                "created": _stamp(now),
                "modified": _stamp(now),
                "jobId": job["id"],
                "status": "open",
                "bookedOn": now.date().isoformat(),
                "bookedFromQuote": True,
            }
            self.context.objects[resource["id"]] = {**resource, "kind": "order"}
        token = "not-the-token" if bad_signature else self.context.webhook_secret
        url = f"{self.context.webhook_url}?{urlencode({'token': token})}"
        return url, {"Content-Type": "application/json"}, json.dumps(resource).encode()

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build `order.booked` or `job.created` about a job; `order.booked` also books the job."""
        if event not in ("order.booked", "job.created"):
            raise KeyError(event)
        jobs = [one["id"] for one in self.context.objects.values() if one["kind"] == "job"]
        job = self.of("job", object_id or (jobs[-1] if jobs else ""))
        if job is None:
            raise KeyError(object_id)
        if event == "order.booked" and not bad_signature:
            job["stage"] = "booked"
        return self.hook(event, job, bad_signature=bad_signature)


def _utc(event: dict[str, Any]) -> dict[str, str | None]:
    zone = ZoneInfo(event.get("timezoneName") or "UTC")
    times: dict[str, str | None] = {}
    for name in ("start", "end"):
        day, hour = event.get(f"{name}Date"), event.get(f"{name}Time")
        moment = datetime.combine(date.fromisoformat(day), time.fromisoformat(hour), zone) if day and hour else None
        times[f"{name}Utc"] = _stamp(moment) if moment else None
    return times


def build(context: FakeContext) -> StandIn:
    """Build the stand-in of one studio."""
    studio = _Studio(context)

    def authorized(act: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            key = request.headers.get("x-api-key", "")
            if not key or key.startswith("revoked"):
                return _problem(401, "unknown", "Unauthorized", "API key is missing or invalid.")
            return act(request)

        return endpoint

    def writing(act: Callable[[str, Request, dict[str, Any]], Response], kind: str) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                body = json.loads(await request.body())
            except ValueError:
                body = None
            if not isinstance(body, dict):
                return _invalid(body="is not an object")
            return await authorized(lambda asked: act(kind, asked, body))(request)

        return endpoint

    def refuse(operation: str, request: Request) -> Response | None:
        if operation == "create_job":
            return _invalid(eventDate="The studio does not take jobs on this date.")
        return _invalid(startDate="The studio is busy at this time.") if operation == "add_event" else None

    routes = [Route("/studio/me", authorized(lambda _: JSONResponse({"name": "Studio"})), name="health")]
    routes.append(Route("/order", authorized(lambda r: studio.list("order", r)), methods=["GET"], name="list_orders"))
    for kind, created in (("job", "create_job"), ("event", "add_event")):
        one, all_ = f"/{kind}/{{id}}", f"/{kind}"
        routes += [
            Route(all_, writing(studio.create, kind), methods=["POST"], name=created),
            Route(all_, authorized(lambda r, k=kind: studio.list(k, r)), methods=["GET"], name=f"list_{kind}s"),  # type: ignore[misc]
            Route(one, writing(studio.update, kind), methods=["PUT"], name=f"update_{kind}"),
            Route(one, authorized(lambda r, k=kind: studio.delete(k, r)), methods=["DELETE"], name=f"delete_{kind}"),  # type: ignore[misc]
            Route(one, authorized(lambda r, k=kind: studio.get(k, r)), methods=["GET"], name=f"get_{kind}"),  # type: ignore[misc]
        ]
    return StandIn(routes=routes, refuse=refuse, emit=studio.emit)
