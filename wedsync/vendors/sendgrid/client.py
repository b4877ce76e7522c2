"""Sends email through SendGrid. https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send"""

from __future__ import annotations

from wedsync.domain.errors import InvalidInput, NotAuthorized, VendorThrottled
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.sendgrid import mapping


class Client:
    """One SendGrid account."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Do `send_mail`: done as soon as SendGrid took it; a webhook reports the delivery. Never repeat it blindly."""
        if call.operation != "send_mail":
            raise InvalidInput(f"sendgrid has no operation {call.operation}", field="operation")
        if not self._account.api_key:
            raise NotAuthorized("sendgrid: the account has no API key", vendor="sendgrid", reason="missing_api_key")
        body = mapping.mail_body(call, self._account.account_id)
        headers = {"Authorization": f"Bearer {self._account.api_key}"}
        try:
            response = await self._http.request("POST", "/v3/mail/send", json_body=body, headers=headers)
        except VendorThrottled as error:
            wait = mapping.wait_seconds(self._http.last_headers, utc_now())
            if wait is None:
                raise
            raise VendorThrottled(
                error.detail, vendor=error.vendor, reason=error.reason, status=error.status, retry_after_seconds=wait
            ) from error
        return mapping.accepted(response.headers.get("x-message-id", ""))

    async def find(self, call: Call) -> Effect | None:
        """Raise InvalidInput: SendGrid can't be asked what it has sent."""
        raise InvalidInput(f"sendgrid can't look up {call.operation}", field="operation")

    async def inspect(self, call: Call) -> Effect:
        """Return what the call's facts hold: SendGrid reports an email's delivery by webhook only."""
        message_id = call.facts.get("message_id")
        if not isinstance(message_id, str):
            raise InvalidInput("the email's id is not known", field="facts.message_id")
        return mapping.accepted(message_id)
