"""Vonage's SMS API: every accepted request is a new message; refusals come with HTTP 200 and a numeric status."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_NUMBER = re.compile(r"\d{7,15}")
_LONGEST_CHARACTERS = 3200
#: Characters that fit one message, and one of several, by type.
_PARTS = {"text": (160, 153), "unicode": (70, 67)}


def _refused(status: str, text: str) -> JSONResponse:
    return JSONResponse({"message-count": "1", "messages": [{"status": status, "error-text": text}]})


def _parts(text: str, kind: str) -> int:
    # UCS-2 counts UTF-16 units; GSM counts septets (its few two-septet characters are counted as one here).
    length = len(text.encode("utf-16-be")) // 2 if kind == "unicode" else len(text)
    one, several = _PARTS[kind]
    return 1 if length <= one else -(-length // several)


class _Vonage:
    def __init__(self, context: FakeContext) -> None:
        self.context = context

    async def send(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        if refusal := self._refusal(form):
            return refusal
        kind = form.get("type", "text")
        messages = []
        for number in range(_parts(form["text"], kind)):
            message_id = secrets.token_hex(8).upper()
            stored = {
                "id": message_id,
                "to": form["to"],
                "client-ref": form.get("client-ref"),
                "api-key": form["api_key"],
            }
            stored |= {"url": form.get("callback") or self.context.webhook_url, "status": "accepted"}
            self.context.objects[message_id] = stored
            if number == 0:
                self.context.record(request, message_id, "send_sms")
            message = {"to": form["to"], "message-id": message_id, "status": "0", "remaining-balance": "15.53590000"}
            message |= {"message-price": "0.03330000", "network": "23410"}
            if form.get("client-ref"):
                message["client-ref"] = form["client-ref"]
            messages.append(message)
            url, headers, receipt = self.receipt("delivered", stored, bad_signature=False)
            self.context.send(url, headers, receipt, self.context.webhook_delay_seconds)
        return JSONResponse({"message-count": str(len(messages)), "messages": messages})

    async def balance(self, request: Request) -> Response:
        return JSONResponse({"value": 15.5359, "autoReload": False})

    @staticmethod
    def _refusal(form: dict[str, str]) -> Response | None:
        if not form.get("api_key") or not form.get("api_secret") or form["api_secret"].startswith("revoked"):
            return _refused("4", "Bad Credentials")
        for name in ("from", "to", "text"):
            if not form.get(name):
                return _refused("2", f"Missing {name} param")
        if not _NUMBER.fullmatch(form["to"]) or form.get("type", "text") not in _PARTS:
            return _refused("3", "Invalid to or type param")
        if len(form["text"]) > _LONGEST_CHARACTERS:
            return _refused("12", "Message too long")
        return None

    def receipt(
        self, status: str, message: dict[str, Any], *, bad_signature: bool
    ) -> tuple[str, dict[str, str], bytes]:
        """Build a delivery receipt, signed with HMAC-SHA256 over the sorted parameters."""
        now = self.context.now()
        message["status"] = status
        params = {
            "msisdn": message["to"],
            "to": "Wedding",
            "network-code": "23410",
            "messageId": message["id"],
            "price": "0.03330000",
            "status": status,
            "scts": now.astimezone(UTC).strftime("%y%m%d%H%M"),
            "err-code": "0" if status in ("delivered", "accepted", "buffered") else "1",
            "api-key": message["api-key"],
            "message-timestamp": now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "timestamp": str(int(now.timestamp())),
            "nonce": secrets.token_hex(8),
        }
        if message["client-ref"]:
            params["client-ref"] = message["client-ref"]
        mac = hmac.new(
            (b"wrong" if bad_signature else b"") + self.context.webhook_secret.encode(), digestmod=hashlib.sha256
        )
        for name in sorted(params):
            mac.update(f"&{name}={re.sub('[&=]', '_', params[name])}".encode())
        body = json.dumps({**params, "sig": mac.hexdigest()}).encode()
        return message["url"], {"Content-Type": "application/json"}, body

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a receipt with the status `event` (`delivered`, `failed`, ...); KeyError for an unknown message."""
        message = self.context.objects[object_id or next(reversed(self.context.objects), "")]
        return self.receipt(event, message, bad_signature=bad_signature)


def build(context: FakeContext) -> StandIn:
    """Build the stand-in of one Vonage account."""
    vonage = _Vonage(context)

    def refuse(operation: str, request: Request) -> Response | None:
        return _refused("7", "Number barred") if operation == "send_sms" else None

    return StandIn(
        routes=[
            Route("/sms/json", vonage.send, methods=["POST"], name="send_sms"),
            Route("/account/get-balance", vonage.balance, methods=["GET"], name="health"),
        ],
        refuse=refuse,
        emit=vonage.emit,
    )
