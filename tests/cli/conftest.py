"""A small API over real HTTP that speaks the public interface, scripted by each test; and a way to run the command."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from wedsync.cli.main import invoke

Json = dict[str, Any]
KEY = "wk_test"
WEDDING = "01JABCDEFGHJKMNPQRSTVWXYZ0"
NOW = "2026-11-20T12:00:00+00:00"

PLAN = """\
version: 1
wedding:
  id: elopement
  couple: [Ada, Grace]
  ceremony: {at: 2027-06-19T16:00, zone: Europe/Rome}
  currency: EUR
  contacts:
    - {id: ada, name: Ada, email: ada@example.com, phone: "+390318125551", instruments: {stripe: pm_1, paypal: pt_1}}
services:
  - {id: venue, name: Villa, role: venue, vendor: generic, critical: true}
  - {id: money, name: Payments, role: planning, vendor: stripe, critical: true, fallbacks: [paypal]}
  - {id: news, name: News, role: planning, vendor: twilio}
steps:
  - id: book-venue
    action: booking.request
    service: venue
    inputs: {title: Ceremony, starts: ceremony, contact: ada, guests: 2}
  - id: deposit
    action: payments.collect
    service: money
    needs: [book-venue]
    inputs: {amount: "500.00", payer: ada}
  - id: tell
    action: sms.send
    service: news
    needs: [deposit]
    inputs: {to: ada, text: Booked}
"""


def make_step(step: str, action: str, vendor: str, status: str, **more: Any) -> Json:
    """A step as the API shows it."""
    return {
        "id": step,
        "service": "service",
        "capability": action.partition(".")[0],
        "action": action,
        "status": status,
        "vendor": vendor,
        "fallback_used": False,
        "attempts": 1,
        "external_id": None,
        "due_at": None,
        "started_at": NOW,
        "ended_at": "2026-11-20T12:00:01+00:00" if status in ("succeeded", "failed") else None,
        "error": None,
        "compensation": None,
        **more,
    }


@dataclass
class Refusal:
    """An answer other than the usual, given `times` times."""

    method: str
    path: str
    status: int
    body: Json
    times: int = 1000


@dataclass
class StubApi:
    """What the stub knows and was asked."""

    url: str = ""
    weddings: dict[str, Json] = field(default_factory=dict)
    transactions: dict[str, Json] = field(default_factory=dict)
    #: The statuses that the next transaction goes through, one a look; the last one stays.
    story: list[str] = field(default_factory=lambda: ["running", "completed"])
    #: What each transaction's steps look like, by its status.
    steps: Callable[[str], list[Json]] = lambda status: []
    events: list[Json] = field(default_factory=list)
    requests: list[Json] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    ledgers: dict[str, list[Json]] = field(default_factory=dict)
    faults: dict[str, Json] = field(default_factory=dict)
    #: Each vendor's one circuit: `state`, `forced`, `held`.
    circuits: dict[str, Json] = field(default_factory=dict)
    #: Called with the wedding and transaction when an orchestration is accepted.
    on_orchestrate: Callable[[StubApi, str], None] | None = None
    _keys: dict[str, tuple[int, Json, str]] = field(default_factory=dict)
    _stories: dict[str, list[str]] = field(default_factory=dict)
    _polled: asyncio.Event = field(default_factory=asyncio.Event)

    def refuse(self, method: str, path: str, status: int, code: str, **more: Any) -> None:
        """Answer requests that match with a problem."""
        times = more.pop("times", 1000)
        body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": f"because {code}"}
        self.refusals.append(Refusal(method, path, status, body | more, times))

    def asked(self, method: str, path: str) -> list[Json]:
        """The requests that matched."""
        return [one for one in self.requests if one["method"] == method and re.fullmatch(path, one["path"])]

    def add_wedding(self, wedding_id: str = WEDDING, reference: str = "elopement", **more: Any) -> Json:
        """A wedding that stands already."""
        self.weddings[wedding_id] = {
            "id": wedding_id,
            "reference": reference,
            "status": "active",
            "phase": "preparation",
            "mode": "normal",
            "ceremony": {"local": "2027-06-19T16:00", "zone": "Europe/Rome", "instant": "2027-06-19T14:00:00Z"},
            "steps": [],
            "transactions": [],
            **more,
        }
        return self.weddings[wedding_id]

    def add_transaction(self, wedding_id: str, kind: str, story: list[str] | None = None) -> Json:
        """A transaction that goes through `story`."""
        number = len(self.transactions) + 1
        transaction_id = f"01JTX{number:021d}"
        left = list(story or self.story)
        self._stories[transaction_id] = left
        found = {
            "id": transaction_id,
            "wedding_id": wedding_id,
            "kind": kind,
            "status": left[0],
            "gaps": [],
            "target": None,
            "error": None,
            "started_at": NOW,
            "ended_at": None,
            "temporal_url": f"http://temporal.test/{transaction_id}",
            "steps": self.steps(left[0]),
        }
        self.transactions[transaction_id] = found
        self.weddings[wedding_id]["transactions"].append({"id": transaction_id, "kind": kind, "status": left[0]})
        return found

    def poll(self, transaction_id: str) -> Json:
        """The transaction, one part of its story on."""
        self._polled.set()
        found = self.transactions[transaction_id]
        left = self._stories[transaction_id]
        found["status"] = left.pop(0) if len(left) > 1 else left[0]
        found["steps"] = self.steps(found["status"])
        for item in self.weddings[found["wedding_id"]]["transactions"]:
            if item["id"] == transaction_id:
                item["status"] = found["status"]
        return found

    # ---- the routes

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        self.requests.append(
            {
                "method": request.method,
                "path": path,
                "query": dict(request.query_params),
                "headers": dict(request.headers),
                "json": json.loads(body) if body else None,
            }
        )
        for refusal in self.refusals:
            if refusal.times and request.method == refusal.method and re.fullmatch(refusal.path, path):
                refusal.times -= 1
                return JSONResponse(refusal.body, refusal.status, media_type="application/problem+json")
        if path.startswith("/_sandbox/"):
            return self._sandbox(request, path.removeprefix("/_sandbox"))
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return self._problem(401, "not_authorized")
        return self._api(request, path.removeprefix("/api/v1"))

    def _api(self, request: Request, path: str) -> Response:
        changes = request.method in ("POST", "DELETE")
        key = request.headers.get("idempotency-key", "")
        if changes and not key:
            return self._problem(400, "idempotency_key_missing")
        if changes and key in self._keys:
            status, body, location = self._keys[key]
            return JSONResponse(body, status, {"location": location} if location else {})
        for method, pattern, handler in self._routes():
            match = re.fullmatch(pattern, path)
            if match and method == request.method:
                status, body, location = handler(*match.groups())
                if changes and status < 300:
                    self._keys[key] = (status, body, location)
                if isinstance(body, str):
                    return StreamingResponse(self._stream(request), media_type="text/event-stream")
                return JSONResponse(body, status, {"location": location} if location else {})
        return self._problem(404, "not_found")

    def _routes(self) -> list[tuple[str, str, Callable[..., tuple[int, Any, str]]]]:
        return [
            ("GET", "/weddings", self._list),
            ("POST", "/weddings", self._create),
            ("GET", "/weddings/([^/]+)", self._wedding),
            ("DELETE", "/weddings/([^/]+)", lambda w: self._begin(w, "undo")),
            ("POST", "/weddings/([^/]+)/transactions", self._request_transaction),
            ("GET", "/weddings/([^/]+)/transactions/([^/]+)", self._transaction),
            ("POST", "/weddings/([^/]+)/transactions/([^/]+)/(undo|cancel)", lambda w, t, verb: self._begin(w, "undo")),
            ("POST", "/weddings/([^/]+)/steps/([^/]+)/decision", lambda w, s: self._begin(w, "scheduled")),
            ("POST", "/weddings/([^/]+)/repair", lambda w: (200, {"repaired": True}, "")),
            ("GET", "/services", self._services),
            ("PUT", "/services/([^/]+)/circuit", self._force),
            ("GET", "/weddings/([^/]+)/events", lambda w: (200, "stream", "")),
        ]

    def _list(self) -> tuple[int, Any, str]:
        query = self.requests[-1]["query"]
        known = list(self.weddings.values())
        start, size = int(query.get("cursor", "0")), min(2, int(query.get("limit", "50")))
        more = str(start + size) if start + size < len(known) else None
        return 200, {"data": known[start : start + size], "next_cursor": more}, ""

    def _create(self) -> tuple[int, Any, str]:
        plan = self.requests[-1]["json"]
        reference = plan["wedding"]["id"]
        if any(one["reference"] == reference for one in self.weddings.values()):
            return 409, {"code": "plan_exists", "detail": f"a plan with id {reference} stands already"}, ""
        wedding_id = f"01JWED{len(self.weddings):020d}"
        created = self.add_wedding(wedding_id, reference)
        return 201, created, f"/api/v1/weddings/{wedding_id}"

    def _wedding(self, wedding: str) -> tuple[int, Any, str]:
        for found in self.weddings.values():
            if wedding in (found["id"], found["reference"]):
                return 200, found, ""
        return self._missing()

    def _request_transaction(self, wedding_id: str) -> tuple[int, Any, str]:
        kind = self.requests[-1]["json"]["kind"]
        if self.on_orchestrate and kind == "orchestrate":
            self.on_orchestrate(self, wedding_id)
        return self._begin(wedding_id, kind)

    def _begin(self, wedding_id: str, kind: str) -> tuple[int, Any, str]:
        if wedding_id not in self.weddings:
            return self._missing()
        found = self.add_transaction(wedding_id, kind)
        return 202, dict(found), f"/api/v1/weddings/{wedding_id}/transactions/{found['id']}"

    def _transaction(self, wedding_id: str, transaction_id: str) -> tuple[int, Any, str]:
        if transaction_id not in self.transactions:
            return self._missing()
        return 200, self.poll(transaction_id), ""

    def trip(self, vendor: str, **more: Any) -> None:
        """Cut a vendor off."""
        self.circuits[vendor] = {"endpoint": "default", "state": "open", "forced": None, "held": False, **more}

    def _services(self) -> tuple[int, Any, str]:
        return 200, {"data": [{"service": name, "circuits": [one]} for name, one in self.circuits.items()]}, ""

    def _force(self, service: str) -> tuple[int, Any, str]:
        asked = self.requests[-1]["json"]
        circuit = self.circuits[service]
        circuit["forced"] = None if asked["state"] == "auto" else asked["state"]
        circuit["state"] = circuit["forced"] or circuit["state"]
        return 200, {"changed": True}, ""

    async def _stream(self, request: Request) -> Any:
        after = int(request.headers.get("last-event-id", "0"))
        yield ": hello\n\n"
        for event in self.events:
            if event["id"] > after:
                yield f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event['data'])}\n\n"
        # Each look is news for the next one, as long as any story goes on.
        while any(self.transactions[name]["status"] != left[-1] for name, left in self._stories.items()):
            self._polled.clear()
            yield 'event: transaction\ndata: {"part":"of the story"}\n\n'
            await self._polled.wait()

    def _sandbox(self, request: Request, path: str) -> Response:
        if path == "/health":
            return JSONResponse({"status": "ok", "vendors": list(self.ledgers)})
        if path.startswith("/ledger/"):
            return JSONResponse({"entries": self.ledgers[path.removeprefix("/ledger/")]})
        if path.startswith("/faults/") and request.method == "PUT":
            self.faults[path.removeprefix("/faults/")] = self.requests[-1]["json"]
            return JSONResponse({})
        if path.startswith("/faults/"):
            self.faults.pop(path.removeprefix("/faults/"), None)
            return Response(status_code=204)
        return JSONResponse({"now": NOW}) if path == "/clock" else Response(status_code=404)

    def _missing(self) -> tuple[int, Any, str]:
        return 404, {"code": "not_found", "detail": "there is no such thing"}, ""

    def _problem(self, status: int, code: str) -> Response:
        return JSONResponse({"code": code, "detail": f"because {code}"}, status)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubApi]:
    """A running stub, known to the command by its environment."""
    stub = StubApi()
    methods = ["GET", "POST", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", stub.answer, methods=methods)])
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    stub.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    bound.listen(100)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True)
    thread.start()
    monkeypatch.setenv("WEDSYNC_API_URL", stub.url)
    monkeypatch.setenv("WEDSYNC_API_KEY", KEY)
    monkeypatch.setenv("WEDSYNC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield stub
    server.should_exit = True
    thread.join(10)
    bound.close()


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON object it must be."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture
def wedsync(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run one command line in this process."""

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        code = invoke([str(word) for word in argv])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def step() -> Callable[..., Json]:
    """Makes a step as the API shows it."""
    return make_step


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A good plan."""
    path = tmp_path / "elopement.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No stack runs and none is configured: the state folder."""
    monkeypatch.delenv("WEDSYNC_API_URL", raising=False)
    monkeypatch.delenv("WEDSYNC_API_KEY", raising=False)
    monkeypatch.setenv("WEDSYNC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"
