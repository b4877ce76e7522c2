"""Resend's stand-in: emails are taken once per idempotency key, read, and their delivery announced."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_KEY_LIFE = timedelta(hours=24)
_ADDRESS = re.compile(r"(?:[^<>]*<)?[^\s@<>]+@[^\s@<>]+\.?[^\s@<>]*>?")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_MAX_RECIPIENTS = 50
_UNVERIFIED = (
    "The example-unverified.com domain is not verified. Please, add and verify your domain on resend.com/domains"
)


def build(context: FakeContext) -> StandIn:
    """Build the stand-in at `context`."""
    resend = _Resend(context)
    return StandIn(
        routes=[
            Route("/emails", resend.create, methods=["POST"], name="send_email"),
            Route("/emails/{email_id}", resend.fetch, methods=["GET"], name="get_email"),
            Route("/domains", resend.domains, methods=["GET"], name="health"),
        ],
        refuse=_refuse,
        emit=resend.emit,
    )


def _error(status: int, name: str, message: str) -> Response:
    return JSONResponse({"statusCode": status, "name": name, "message": message}, status)


def _refuse(operation: str, request: Request) -> Response | None:
    return _error(403, "validation_error", _UNVERIFIED) if operation == "send_email" else None


def _unauthorized(request: Request) -> Response | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return _error(401, "missing_api_key", "Missing API Key")
    if key.strip() == "re_invalid":
        return _error(403, "invalid_api_key", "API key is invalid")
    return None


def _faulty(email: Any) -> Response | None:
    if not isinstance(email, dict):
        return _error(422, "validation_error", "The request body is not a JSON object.")
    for name in ("from", "to", "subject"):
        if not email.get(name):
            return _error(422, "missing_required_field", f"Missing `{name}` field.")
    if not email.get("html") and not email.get("text") and not email.get("template"):
        return _error(422, "missing_required_field", "Missing `html` or `text` field.")
    recipients = email["to"] if isinstance(email["to"], list) else [email["to"]]
    if len(recipients) > _MAX_RECIPIENTS:
        return _error(422, "validation_error", "The `to` field has a limit of 50 recipients.")
    for name, addresses in (("from", [email["from"]]), ("to", recipients)):
        if not all(isinstance(one, str) and _ADDRESS.fullmatch(one) for one in addresses):
            form = "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format."
            return _error(422, "validation_error", f"Invalid `{name}` field. {form}")
    for tag in email.get("tags", []):
        named = isinstance(tag, dict) and all(_TAG.fullmatch(str(tag.get(part, ""))) for part in ("name", "value"))
        if not named:
            allowed = "Tags should only contain ASCII letters, numbers, underscores, or dashes."
            return _error(422, "validation_error", allowed)
    return None


class _Resend:
    def __init__(self, context: FakeContext) -> None:
        self._context = context

    async def domains(self, request: Request) -> Response:
        return _unauthorized(request) or JSONResponse({"object": "list", "has_more": False, "data": []})

    async def create(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= 256:
            return _error(400, "invalid_idempotency_key", "The idempotency key must be between 1-256 characters")
        body = await request.body()
        try:
            email = json.loads(body)
        except ValueError:
            return _error(422, "validation_error", "The request body is not valid JSON.")
        # What is not even a request is not remembered under its key.
        faulty = _faulty(email)
        if faulty:
            return faulty

        async def answer() -> Response:
            return self._take(request, email, key)

        return await self._context.idempotent(key, body, _KEY_LIFE, answer, _conflict)

    def _take(self, request: Request, email: dict[str, Any], key: str | None) -> Response:
        email_id = str(uuid4())
        self._context.objects[email_id] = {
            "email": {
                "object": "email",
                "id": email_id,
                "to": email["to"] if isinstance(email["to"], list) else [email["to"]],
                "from": email["from"],
                "created_at": _instant(self._context.now()),
                "subject": email["subject"],
                "html": email.get("html", ""),
                "text": email.get("text", ""),
                "bcc": [],
                "cc": [],
                "reply_to": [],
                "last_event": "delivered",
            },
            "tags": {tag["name"]: tag["value"] for tag in email.get("tags", [])},
        }
        self._context.record(request, email_id, "send_email", idempotency_key=key)
        if self._context.webhook_secret:
            url, headers, event = self.emit("email.delivered", email_id, False)
            self._context.send(url, headers, event, self._context.webhook_delay_seconds)
        return JSONResponse({"id": email_id})

    async def fetch(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        kept = self._context.objects.get(request.path_params["email_id"])
        return JSONResponse(kept["email"]) if kept else _error(404, "not_found", "Email not found")

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build an event about an email (the newest when none is named)."""
        email_id = object_id if object_id is not None else next(reversed(self._context.objects), "")
        kept = self._context.objects[email_id]
        email = kept["email"]
        email["last_event"] = event.removeprefix("email.")
        now = self._context.now()
        data = {name: email[name] for name in ("created_at", "from", "to", "subject")}
        message = {
            "type": event,
            "created_at": _instant(now),
            "data": {"email_id": email_id, **data, "tags": kept["tags"]},
        }
        body = json.dumps(message, ensure_ascii=False).encode()
        message_id = f"msg_{secrets.token_hex(12)}"
        stamp = str(int(now.timestamp()))
        signature = _signature(self._context.webhook_secret, f"{message_id}.{stamp}.".encode() + body)
        if bad_signature:
            signature = _signature("whsec_" + base64.b64encode(b"another secret").decode(), body)
        headers = {
            "Content-Type": "application/json",
            "svix-id": message_id,
            "svix-timestamp": stamp,
            "svix-signature": f"v1,{signature}",
        }
        return self._context.webhook_url, headers, body


def _conflict() -> Response:
    message = "This idempotency key has been used already with a different request body"
    return _error(409, "invalid_idempotent_request", message)


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
