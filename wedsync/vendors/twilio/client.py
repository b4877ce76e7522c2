"""Sends text messages through Twilio and finds them again.

https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from wedsync.domain.errors import InvalidInput, NotAuthorized, OutcomeUnknown, VendorRejected
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.twilio import mapping
from wedsync.vendors.twilio.mapping import Message

_VERSION = "2010-04-01"
_PAGE_SIZE = "200"
#: With 200 messages a page: more than one person is ever sent around one moment.
_MAX_PAGES = 25


class Client:
    """One Twilio account."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Do `send_message`: done as soon as Twilio took the message; a webhook reports the delivery."""
        if call.operation != "send_message":
            raise InvalidInput(f"twilio has no operation {call.operation}", field="operation")
        form = mapping.message_form(call, self._sender(), self._account.webhook_url)
        response = await self._http.request("POST", self._messages(), form=form, auth=self._auth())
        message = mapping.read_message(response.json())
        if message.is_lost:
            raise mapping.lost(message)
        return mapping.effect(message)

    async def find(self, call: Call) -> Effect | None:
        """Find the message to this recipient with this very text, made since `call.first_sent_at`.

        Twilio keeps no reference of ours, so a twin (same recipient, same text, same seconds) can't be told apart.
        Raises OutcomeUnknown when there are too many messages to look through.
        """
        sms = mapping.sms_of(call)
        since = mapping.search_from(call.first_sent_at)
        # DateSent as a filter has whole days and leaves out what is still queued: the time is compared here.
        path: str | None = self._messages()
        params: list[tuple[str, str]] | None = [("To", mapping.phone_of(sms.to)), ("PageSize", _PAGE_SIZE)]
        found: list[Message] = []
        for _ in range(_MAX_PAGES):
            if path is None:
                break
            response = await self._http.request("GET", path, params=params, auth=self._auth())
            messages, path = mapping.read_page(response.json())
            params = None
            found += [one for one in messages if mapping.is_it(one, sms.text, since)]
            if _all_older(messages, since):
                path = None
        if path is not None and not found:
            raise OutcomeUnknown("twilio: too many messages to look through", vendor="twilio", reason="not_searchable")
        return mapping.effect(min(found, key=lambda one: one.date_created)) if found else None

    async def inspect(self, call: Call) -> Effect:
        """Read the message as Twilio has it now; raises VendorRejected when it could not be delivered."""
        sid = mapping.message_id(call)
        try:
            response = await self._http.request(
                "GET", f"{self._folder()}/Messages/{quote(sid, safe='')}.json", auth=self._auth()
            )
        except VendorRejected as error:
            if error.status == 404:
                return Effect(state="absent", external_id=sid, detail="no such message")
            raise
        message = mapping.read_message(response.json())
        if message.is_lost:
            raise mapping.lost(message)
        return mapping.effect(message)

    def _folder(self) -> str:
        if not self._account.account_id:
            raise NotAuthorized("twilio: the account has no AccountSid", vendor="twilio", reason="missing_account_id")
        return f"/{self._account.api_version or _VERSION}/Accounts/{quote(self._account.account_id, safe='')}"

    def _messages(self) -> str:
        return f"{self._folder()}/Messages.json"

    def _sender(self) -> str:
        if not self._account.client_id:
            raise NotAuthorized("twilio: the account has no sender", vendor="twilio", reason="missing_sender")
        return self._account.client_id

    def _auth(self) -> tuple[str, str]:
        user, colon, secret = self._account.api_key.partition(":")
        return (user, secret) if colon else (self._account.account_id, self._account.api_key)


def _all_older(messages: list[Message], since: datetime) -> bool:
    # The list runs from the newest on.
    return bool(messages) and all(one.date_created < since for one in messages)
