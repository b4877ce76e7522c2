"""Sends email through Resend. https://resend.com/docs/api-reference/emails/send-email"""

from __future__ import annotations

from urllib.parse import quote

from wedsync.domain.errors import InvalidInput, NotAuthorized, VendorError, VendorRejected
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.effects import identified
from wedsync.domain.vendors.read_inputs import needed_fact_of
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.resend import mapping


class Client:
    """One Resend team."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Do `send_email` with an `Idempotency-Key`: done as soon as Resend took it; a webhook reports the delivery."""
        if call.operation != "send_email":
            raise InvalidInput(f"resend has no operation {call.operation}", field="operation")
        body = mapping.email_body(call, self._account.account_id)
        headers = {**self._authorization(), "Idempotency-Key": call.idempotency_key}
        try:
            response = await self._http.request("POST", "/emails", json_body=body, headers=headers)
        except VendorError as error:
            meant = mapping.reread(error)
            raise meant from (error if meant is not error else None)
        email_id = identified(response.json(), "resend")["id"]
        return Effect(
            state="done",
            external_id=email_id,
            facts={"message_id": email_id},
            detail=f"email {email_id} accepted",
        )

    async def find(self, call: Call) -> Effect | None:
        """Raise InvalidInput: nothing is searched, an unknown outcome is replayed under the same key."""
        raise InvalidInput(f"resend can't look up {call.operation}", field="operation")

    async def inspect(self, call: Call) -> Effect:
        """Read the email as Resend has it now; raises VendorRejected when it could not be delivered."""
        email_id = needed_fact_of(call, "message_id")
        path = f"/emails/{quote(email_id, safe='')}"
        try:
            response = await self._http.request("GET", path, headers=self._authorization())
        except VendorRejected as error:
            if error.status == 404:
                return Effect(state="absent", external_id=email_id, detail="no such email")
            meant = mapping.reread(error)
            raise meant from (error if meant is not error else None)
        return mapping.inspected(response.json(), email_id)

    def _authorization(self) -> dict[str, str]:
        if not self._account.api_key:
            raise NotAuthorized("resend: the account has no API key", vendor="resend", reason="missing_api_key")
        return {"Authorization": f"Bearer {self._account.api_key}"}
