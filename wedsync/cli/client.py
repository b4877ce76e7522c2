"""Calls the REST API for the command line: finds it, sends one request, reads the stream of a wedding's events."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from wedsync.cli.output import BAD_INPUT, CONFLICT, INTERNAL, UNREACHABLE, CliError

if TYPE_CHECKING:
    from wedsync.kit.http import Pool

#: Longer than the API's longest `?wait=`.
REQUEST_TIMEOUT_SECONDS = 40.0
#: The API sends a comment line more often than this.
STREAM_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Location:
    """Address of the API, and the key for it."""

    url: str
    key: str
    #: What `wedsync up` wrote, when that is where this comes from.
    run: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    """A 2xx answer: its status, its `Location` header, its JSON."""

    status: int
    location: str
    body: Any


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event: `step`, `transaction` or `wedding`."""

    id: int
    type: str
    data: dict[str, Any]


def state_dir() -> Path:
    """Return `WEDSYNC_STATE_DIR`, or `.wedsync` here."""
    return Path(os.environ.get("WEDSYNC_STATE_DIR") or ".wedsync")


def running_stack(folder: Path | None = None) -> dict[str, Any] | None:
    """Read what the embedded stack wrote into `run.json` when it was ready; None when there is none."""
    try:
        found = json.loads(((folder or state_dir()) / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def locate() -> Location:
    """Return `WEDSYNC_API_URL` and `WEDSYNC_API_KEY`, else the stack that `wedsync up` started.

    The local stack's key is never sent to another address. Raises CliError (7: nothing is known; 2: no key).
    """
    run = running_stack()
    url = os.environ.get("WEDSYNC_API_URL", "").rstrip("/")
    key = os.environ.get("WEDSYNC_API_KEY", "")
    local_url = str(run["api_url"]).rstrip("/") if run else ""
    if not url and not run:
        raise CliError("unreachable", "no wedsync is running here: start it with `wedsync up`", UNREACHABLE)
    at_home = not url or url == local_url
    if not key and run and at_home:
        key = str(run["api_key"])
    if not key:
        raise CliError("api_key_missing", f"set WEDSYNC_API_KEY to a key of the API at {url}", BAD_INPUT)
    return Location(url or local_url, key, run if at_home else None)


class ApiClient:
    """Speaks to one API with one key. Raises CliError only."""

    def __init__(self, location: Location) -> None:
        # Here, not above: `wedsync --help` need not wait for it.
        from wedsync.kit.http import TransportError, new_pool

        self.location = location
        self._pool: Pool = new_pool()
        self._no_answer = TransportError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.location.key}"}

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Reply:
        """Send one request to `/api/v1{path}` and return its 2xx answer.

        Raises CliError: 2 refused as wrong, 6 not there or in conflict, 7 no answer or overloaded, 1 anything else.
        """
        headers = self._headers()
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        try:
            answer = await self._pool.request(
                method,
                f"{self.location.url}/api/v1{path}",
                json=body,
                params=params,
                headers=headers,
                timeout=REQUEST_TIMEOUT_SECONDS,
            )
        except self._no_answer as error:
            raise unreachable(self.location.url, error) from error
        parsed = _json_or_none(answer.content)
        if answer.is_success:
            return Reply(answer.status_code, answer.headers.get("location", ""), parsed)
        raise problem(answer.status_code, parsed)

    async def get(self, path: str, **params: str) -> Any:
        """Return the JSON of a GET."""
        return (await self.request("GET", path, params=params or None)).body

    async def events(self, wedding_id: str, after: int = 0) -> AsyncIterator[StreamEvent]:
        """Stream the wedding's events with ids above `after`, until the connection ends; raises CliError."""
        headers = self._headers() | {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = str(after)
        url = f"{self.location.url}/api/v1/weddings/{wedding_id}/events"
        try:
            async with self._pool.stream("GET", url, headers=headers, timeout=STREAM_SILENCE_SECONDS) as answer:
                if not answer.is_success:
                    raise problem(answer.status_code, _json_or_none(await answer.aread()))
                async for event in _parse_stream(answer.aiter_lines()):
                    yield event
        except self._no_answer as error:
            raise unreachable(self.location.url, error) from error


async def _parse_stream(lines: AsyncIterator[str]) -> AsyncIterator[StreamEvent]:
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            data = _json_or_none(fields.get("data", "").encode())
            if isinstance(data, dict):
                number = fields.get("id", "")
                yield StreamEvent(int(number) if number.isdigit() else 0, fields.get("event", "message"), data)
            fields = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name:
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value


def segment(text: str) -> str:
    """Quote `text` as one part of a path, whatever it holds."""
    return quote(text, safe="")


def _json_or_none(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def unreachable(url: str, error: BaseException) -> CliError:
    """Build the error for an API at `url` that did not answer."""
    return CliError(
        "unreachable",
        f"no answer from {url} ({type(error).__name__}): is it running? Start it with `wedsync up`",
        UNREACHABLE,
    )


def problem(status: int, body: Any) -> CliError:
    """Turn an API's refusal (RFC 9457 problem details) into the command line's error."""
    found = body if isinstance(body, dict) else {}
    code = str(found.get("code") or f"http_{status}")
    detail = str(found.get("detail") or found.get("title") or f"the API answered {status}")
    errors = [item for item in found.get("errors") or [] if isinstance(item, dict)]
    if status in (404, 409, 410, 412):
        return CliError(code, detail, CONFLICT, errors)
    if status in (429, 502, 503, 504):
        return CliError(code, detail, UNREACHABLE, errors)
    return CliError(code, detail, BAD_INPUT if 400 <= status < 500 else INTERNAL, errors)


async def gather_quietly(task: asyncio.Task[None]) -> None:
    """Cancel a background task and wait until it is gone."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
