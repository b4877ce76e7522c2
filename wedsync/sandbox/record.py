"""Logs the requests that a vendor's stand-in got."""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass
from typing import Any

from wedsync.sandbox.faults import Sign

#: Per vendor; older ones are forgotten.
MAX_REQUESTS = 50_000
#: Answers are kept for fewer: their bodies are the larger part.
MAX_ANSWERS = 2_000


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    sign: Sign
    #: What the client saw; None: nothing, the connection dropped.
    status: int | None = None
    response_headers: dict[str, str] | None = None
    response_body: bytes | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the exchange as `GET /_sandbox/requests/{vendor}` shows it."""
        answer = self.response_body
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "body_base64": base64.b64encode(self.body).decode(),
            "status": self.status,
            "operation": self.sign.operation,
            "account": self.sign.account,
            "wedding_id": self.sign.wedding_id,
            "step_id": self.sign.step_id,
            "response_headers": self.response_headers,
            "response_body_base64": None if answer is None else base64.b64encode(answer).decode(),
        }


class RequestLog:
    """Log of one vendor's newest requests, oldest first."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=MAX_REQUESTS)
        self._answered: deque[Exchange] = deque()

    def add(self, exchange: Exchange) -> None:
        """Note an exchange; its answer is kept while it is among the newest."""
        self._exchanges.append(exchange)
        self._answered.append(exchange)
        if len(self._answered) > MAX_ANSWERS:
            old = self._answered.popleft()
            old.response_body = old.response_headers = None

    def all(self) -> list[Exchange]:
        """List the exchanges, oldest first."""
        return list(self._exchanges)
