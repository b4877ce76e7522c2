"""Twilio's stand-in: messages are taken, listed, fetched, and their statuses called back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_E164 = re.compile(r"\+[1-9]\d{6,14}")
_ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")
_MAX_BODY = 1600
#: Twilio's own test numbers (https://www.twilio.com/docs/iam/test-credentials).
_TEST_RECIPIENTS = {
    "+15005550001": (21211, "Invalid 'To' Phone Number: +15005550001"),
    "+15005550002": (21612, "The 'To' phone number is not reachable via SMS"),
    "+15005550003": (21408, "Permission to send an SMS has not been enabled for the region"),
    "+15005550004": (21610, "Attempt to send to unsubscribed recipient"),
    "+15005550009": (21614, "'To' number is not a valid mobile number"),
}


def build(context: FakeContext) -> StandIn:
    """Build the stand-in at `context`."""
    twilio = _Twilio(context)
    # Whatever version the path asks for is answered alike: Twilio has only one for messages so far.
    folder = "/{version}/Accounts/{account_sid}"
    return StandIn(
        routes=[
            Route(f"{folder}/Messages.json", twilio.create, methods=["POST"], name="send_message"),
            Route(f"{folder}/Messages.json", twilio.page, methods=["GET"], name="list_messages"),
            Route(f"{folder}/Messages/{{sid}}.json", twilio.fetch, methods=["GET"], name="fetch_message"),
            Route("/2010-04-01/Accounts.json", twilio.accounts, methods=["GET"], name="health"),
        ],
        refuse=_refuse,
        emit=twilio.emit,
    )


def _error(status: int, code: int, message: str) -> Response:
    link = f"https://www.twilio.com/docs/errors/{code}"
    return JSONResponse({"code": code, "message": message, "more_info": link, "status": status}, status)


def _refuse(operation: str, request: Request) -> Response | None:
    if operation != "send_message":
        return None
    return _error(400, 21610, "Attempt to send to unsubscribed recipient")


def _unauthorized(request: Request) -> Response | None:
    scheme, _, received = request.headers.get("authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(received, validate=True).decode().partition(":")
    except ValueError:
        user = password = ""
    if scheme.lower() != "basic" or not user or not password:
        return _error(401, 20003, "Authenticate")
    account = request.path_params.get("account_sid", user)
    if user.startswith("AC") and account != user:
        return _error(401, 20003, "Authenticate")
    if account.startswith("AC") and not _ACCOUNT.fullmatch(account):
        return _missing(request)
    return None


def _missing(request: Request) -> Response:
    path = request.scope["path"].removeprefix(request.scope["root_path"])
    return _error(404, 20404, f"The requested resource {path} was not found")


def _faulty(form: dict[str, str]) -> tuple[int, str] | None:
    to, body = form.get("To", ""), form.get("Body", "")
    if not to:
        return 21604, "A 'To' phone number is required."
    if not _E164.fullmatch(to):
        return 21211, f"Invalid 'To' Phone Number: {to}"
    if to in _TEST_RECIPIENTS:
        return _TEST_RECIPIENTS[to]
    if not form.get("From") and not form.get("MessagingServiceSid"):
        return 21603, "A 'From' phone number is required."
    if not body.strip():
        return 21602, "Message body is required."
    if len(body) > _MAX_BODY:
        return 21617, "The concatenated message body exceeds the 1600 character limit"
    return None


class _Twilio:
    def __init__(self, context: FakeContext) -> None:
        self._context = context

    async def accounts(self, request: Request) -> Response:
        return _unauthorized(request) or JSONResponse({"accounts": [], "page": 0})

    async def create(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        fault = _faulty(form)
        if fault:
            return _error(400, *fault)
        message = self._message(request.path_params["account_sid"], form)
        self._context.objects[message["sid"]] = {"message": message, "callback": form.get("StatusCallback", "")}
        self._context.record(request, message["sid"], "send_message")
        answer = JSONResponse(message, 201)
        self._deliver(message["sid"])
        return answer

    def _message(self, account: str, form: dict[str, str]) -> dict[str, Any]:
        sid = f"SM{secrets.token_hex(16)}"
        service = form.get("MessagingServiceSid")
        now = _rfc_2822(self._context.now())
        path = f"/2010-04-01/Accounts/{account}/Messages/{sid}"
        return {
            "body": form["Body"],
            "num_segments": "0" if service else str(len(form["Body"]) // 153 + 1),
            "direction": "outbound-api",
            "from": None if service else form["From"],
            "to": form["To"],
            "date_updated": now,
            "price": None,
            "error_message": None,
            "uri": f"{path}.json",
            "account_sid": account,
            "num_media": "0",
            "status": "accepted" if service else "queued",
            "messaging_service_sid": service,
            "sid": sid,
            "date_sent": None,
            "date_created": now,
            "error_code": None,
            "price_unit": "USD",
            "api_version": "2010-04-01",
            "subresource_uris": {"media": f"{path}/Media.json"},
        }

    def _deliver(self, sid: str) -> None:
        kept = self._context.objects[sid]
        kept["message"] = {
            **kept["message"],
            "status": "delivered",
            "date_sent": kept["message"]["date_created"],
        }
        if kept["callback"]:
            url, headers, body = self.emit("delivered", sid, False)
            self._context.send(url, headers, body, self._context.webhook_delay_seconds)

    async def fetch(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        kept = self._context.objects.get(request.path_params["sid"])
        if kept is None or kept["message"]["account_sid"] != request.path_params["account_sid"]:
            return _missing(request)
        return JSONResponse(kept["message"])

    async def page(self, request: Request) -> Response:
        denied = _unauthorized(request)
        if denied:
            return denied
        query = request.query_params
        account = request.path_params["account_sid"]
        matching = [m for m in self._newest_first() if m["account_sid"] == account and _selected(m, query)]
        size = min(max(_number(query.get("PageSize"), 50), 1), 1000)
        number = _number(query.get("Page"), 0)
        kept = [(key, value) for key, value in query.multi_items() if key not in ("Page", "PageSize")]

        def address(page: int) -> str:
            query_key = urlencode([*kept, ("PageSize", str(size)), ("Page", str(page))])
            return f"/2010-04-01/Accounts/{account}/Messages.json?{query_key}"

        shown = matching[number * size : (number + 1) * size]
        return JSONResponse(
            {
                "messages": shown,
                "page": number,
                "page_size": size,
                "start": number * size,
                "end": number * size + max(len(shown) - 1, 0),
                "uri": address(number),
                "first_page_uri": address(0),
                "next_page_uri": address(number + 1) if len(matching) > (number + 1) * size else None,
                "previous_page_uri": address(number - 1) if number else None,
            }
        )

    def _newest_first(self) -> list[dict[str, Any]]:
        return [kept["message"] for kept in reversed(self._context.objects.values())]

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a status callback about a message (the newest when none is named)."""
        sid = object_id if object_id is not None else next(reversed(self._context.objects), "")
        kept = self._context.objects[sid]
        message = kept["message"]
        params = {
            "AccountSid": message["account_sid"],
            "ApiVersion": "2010-04-01",
            "MessageSid": sid,
            "MessageStatus": event,
            "SmsSid": sid,
            "SmsStatus": event,
            "To": message["to"],
        }
        if message["from"]:
            params["From"] = message["from"]
        if message["messaging_service_sid"]:
            params["MessagingServiceSid"] = message["messaging_service_sid"]
        # The message itself then shows what the callback says.
        code = 30003 if event in ("failed", "undelivered") else None
        kept["message"] = {**message, "status": event, "error_code": code}
        if code:
            params["ErrorCode"] = str(code)
        url = kept["callback"] or self._context.webhook_url
        key = self._context.webhook_secret + ("-wrong" if bad_signature else "")
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": _signature(key, url, params),
            "User-Agent": "TwilioProxy/1.1",
        }
        return url, headers, urlencode(params).encode()


def _signature(key: str, url: str, params: dict[str, str]) -> str:
    mac = hmac.new(key.encode(), url.encode(), hashlib.sha1)
    for name in sorted(params):
        mac.update(name.encode())
        mac.update(params[name].encode())
    return base64.b64encode(mac.digest()).decode()


def _selected(message: dict[str, Any], query: Any) -> bool:
    if query.get("To") and message["to"] != query["To"]:
        return False
    if query.get("From") and message["from"] != query["From"]:
        return False
    bounds = [query.get(name) for name in ("DateSent", "DateSent>", "DateSent<")]
    if not any(bounds):
        return True
    if message["date_sent"] is None:
        return False
    sent = datetime.strptime(message["date_sent"], "%a, %d %b %Y %H:%M:%S %z").date().isoformat()
    on, since, until = bounds
    return not ((on and sent != on[:10]) or (since and sent < since[:10]) or (until and sent > until[:10]))


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else default


def _rfc_2822(moment: datetime) -> str:
    return format_datetime(moment.replace(microsecond=0))
