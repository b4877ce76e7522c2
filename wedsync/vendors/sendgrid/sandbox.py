"""SendGrid's stand-in: takes mail, remembers no keys, and posts batches of signed events."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_DOCS = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#message"
#: The order of the curve P-256.
_ORDER = int("115792089210356248762697446949407573529996955224135760342422259061068512044369")


def build(context: FakeContext) -> StandIn:
    """Build the stand-in at `context`."""
    sendgrid = _SendGrid(context)
    return StandIn(
        routes=[
            Route("/v3/mail/send", sendgrid.send, methods=["POST"], name="send_mail"),
            Route("/v3/scopes", sendgrid.scopes, methods=["GET"], name="health"),
        ],
        refuse=_refuse,
        emit=sendgrid.emit,
    )


def _error(status: int, message: str, field: str = "") -> Response:
    where = {"field": field} if field else {}
    return JSONResponse({"errors": [{"message": message, **where}]}, status)


def _refuse(operation: str, request: Request) -> Response | None:
    if operation != "send_mail":
        return None
    unverified = (
        "The from address does not match a verified Sender Identity. Mail cannot be sent until this is resolved."
    )
    return _error(403, f"{unverified} {_DOCS}.from", "from")


def _unauthorized(request: Request) -> Response | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return None
    return _error(401, "The provided authorization grant is invalid, expired, or revoked")


def _address(value: Any) -> bool:
    return isinstance(value, dict) and "@" in str(value.get("email", ""))


def _faulty(mail: Any) -> Response | None:
    if not isinstance(mail, dict):
        return _error(400, "Bad Request")
    people = mail.get("personalizations")
    if not isinstance(people, list) or not 1 <= len(people) <= 1000:
        return _error(400, "The personalizations field is required and must have at least one.", "personalizations")
    for index, one in enumerate(people):
        recipients = one.get("to") if isinstance(one, dict) else None
        if not isinstance(recipients, list) or not recipients or not all(map(_address, recipients)):
            message = "Does not contain a valid address."
            return _error(400, message, f"personalizations.{index}.to.0.email")
    if not _address(mail.get("from")):
        return _error(400, "The from object must be provided for every email send.", "from")
    if not mail.get("subject") and not all(one.get("subject") for one in people):
        return _error(400, "The subject is required. You can get around this if you use a template.", "subject")
    content = mail.get("content")
    if not isinstance(content, list) or not content:
        return _error(400, "Unless a valid template_id is provided, the content parameter is required.", "content")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not part.get("value"):
            return _error(
                400, "The content value must be a string at least one character in length.", f"content.{index}.value"
            )
    return None


class _SendGrid:
    def __init__(self, context: FakeContext) -> None:
        self._context = context

    async def scopes(self, request: Request) -> Response:
        return _unauthorized(request) or JSONResponse({"scopes": ["mail.send"]})

    async def send(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        try:
            mail = json.loads(await request.body())
        except ValueError:
            return _error(400, "Bad Request")
        faulty = _faulty(mail)
        if faulty:
            return faulty
        message_id = secrets.token_urlsafe(16).replace("-", "x")
        person = mail["personalizations"][0]
        self._context.objects[message_id] = {"to": person["to"][0]["email"], "arguments": person.get("custom_args", {})}
        self._context.record(request, message_id, "send_mail")
        if self._context.webhook_secret:
            url, headers, body = self._batch(("processed", "delivered"), message_id, bad_signature=False)
            self._context.send(url, headers, body, self._context.webhook_delay_seconds)
        return Response(status_code=202, headers={"X-Message-Id": message_id})

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a batch with one event about an email (the newest when none is named)."""
        message_id = object_id if object_id is not None else next(reversed(self._context.objects), "")
        return self._batch((event,), message_id, bad_signature)

    def _batch(
        self, events: tuple[str, ...], message_id: str, bad_signature: bool
    ) -> tuple[str, dict[str, str], bytes]:
        kept = self._context.objects[message_id]
        stamp = int(self._context.now().timestamp())
        batch = [
            {
                "email": kept["to"],
                "timestamp": stamp,
                "smtp-id": f"<{message_id}@ismtpd.example>",
                "event": event,
                **kept["arguments"],
                "sg_event_id": secrets.token_urlsafe(24),
                "sg_message_id": f"{message_id}.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",
            }
            for event in events
        ]
        # As SendGrid writes it: one event a line, the last line ended too.
        body = ("[" + ",\r\n".join(json.dumps(one, separators=(",", ":")) for one in batch) + "]\r\n").encode()
        key = _private_key("whsec_another" if bad_signature else self._context.webhook_secret)
        signature = key.sign(f"{stamp}".encode() + body, ec.ECDSA(SHA256()))
        headers = {
            "Content-Type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": str(stamp),
        }
        return self._context.webhook_url, headers, body


def _private_key(seed: str) -> ec.EllipticCurvePrivateKey:
    """Derive the stand-in's own key from the secret that it shares with the receiver."""
    big = int(hashlib.sha512(f"sendgrid stand-in:{seed}".encode()).hexdigest(), 16)
    return ec.derive_private_key(1 + big % (_ORDER - 1), ec.SECP256R1())
