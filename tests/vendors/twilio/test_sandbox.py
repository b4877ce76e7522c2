"""The stand-in refuses and calls back as Twilio does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.requests import Request
from twilio.request_validator import RequestValidator

from wedsync.domain.errors import NotAuthorized, VendorError, VendorRejected
from wedsync.domain.vendors.call import Call
from wedsync.kit.http import VendorHttp
from wedsync.kit.standin import FakeContext
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.twilio import sandbox as stand_in
from wedsync.vendors.twilio import webhook

ACCOUNT_SID = "AC" + "0a" * 16
PATH = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"
GOOD = {"To": "+393331234567", "From": "+15005550006", "Body": "Hello"}


def code_of(status: int, body: Any) -> tuple[str, str]:
    assert body["status"] == status
    assert body["more_info"] == f"https://www.twilio.com/docs/errors/{body['code']}"
    return str(body["code"]), body["message"]


@pytest.fixture
def http(sandbox: EmbeddedSandbox) -> VendorHttp:
    http = sandbox.http("twilio")
    http.read_error = code_of
    return http


def form(**changes: str | None) -> Sequence[tuple[str, str]]:
    return [(name, value) for name, value in {**GOOD, **changes}.items() if value is not None]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"To": None}, "21604"),
        ({"To": "333 1234567"}, "21211"),
        ({"To": "+15005550001"}, "21211"),
        ({"To": "+15005550009"}, "21614"),
        ({"From": None}, "21603"),
        ({"Body": None}, "21602"),
        ({"Body": "x" * 1601}, "21617"),
    ],
)
async def test_a_faulty_message_is_refused_with_twilios_code(
    http: VendorHttp, sandbox: EmbeddedSandbox, changes: dict[str, str | None], code: str
) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", PATH, form=form(**changes), auth=(ACCOUNT_SID, "token"))
    assert (caught.value.reason, caught.value.status) == (code, 400)
    assert await sandbox.ledger("twilio") == []


@pytest.mark.parametrize("auth", [None, ("", ""), (ACCOUNT_SID, ""), ("AC" + "9" * 32, "token")])
async def test_a_missing_or_foreign_credential_is_refused(http: VendorHttp, auth: tuple[str, str] | None) -> None:
    with pytest.raises(NotAuthorized) as caught:
        await http.request("POST", PATH, form=form(), auth=auth)
    assert caught.value.reason == "20003"


@pytest.mark.parametrize(
    "path", [f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages/SM1.json", "/2010-04-01/Accounts/AC1/Messages.json"]
)
async def test_an_unknown_resource_is_a_404(http: VendorHttp, path: str) -> None:
    with pytest.raises(VendorError) as caught:
        await http.request("GET", path, auth=("SKkey", "secret"))
    assert (caught.value.reason, caught.value.status) == ("20404", 404)


async def test_only_sends_are_refused_by_the_fault(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    await sandbox.faults("twilio", mode="refuse")
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", PATH, form=form(), auth=(ACCOUNT_SID, "token"))
    assert caught.value.reason == "21610"
    assert (await http.request("GET", PATH, auth=(ACCOUNT_SID, "token"))).json()["messages"] == []


async def test_the_list_filters_by_number_and_day(http: VendorHttp) -> None:
    auth = (ACCOUNT_SID, "token")
    await http.request("POST", PATH, form=form(), auth=auth)
    await http.request("POST", PATH, form=form(To="+393331234568"), auth=auth)
    today = datetime.now(UTC).date().isoformat()
    for params, count in [
        ([("To", GOOD["To"])], 1),
        ([("From", "+15005550007")], 0),
        ([("DateSent>", today)], 2),
        ([("DateSent<", "2020-01-01")], 0),
        ([("DateSent", "2020-01-01")], 0),
        ([("PageSize", "1"), ("Page", "1")], 1),
    ]:
        page = (await http.request("GET", PATH, params=params, auth=auth)).json()
        assert len(page["messages"]) == count, params


def _context(sent: list[tuple[str, dict[str, str], bytes]]) -> FakeContext:
    return FakeContext(
        vendor="twilio",
        now=lambda: datetime(2026, 11, 20, tzinfo=UTC),
        send=lambda url, headers, body, _: sent.append((url, headers, body)),
        webhook_url="http://127.0.0.1:9/hooks/twilio",
        webhook_secret="the-auth-token",
    )


async def _post(context: FakeContext, body: bytes) -> None:
    standin = stand_in.build(context)
    route = next(route for route in standin.routes if route.name == "send_message")
    credential = base64.b64encode(f"{ACCOUNT_SID}:token".encode())

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", b"Basic " + credential)],
        "path_params": {"account_sid": ACCOUNT_SID},
    }
    await route.endpoint(Request(scope, receive))


async def test_a_message_with_a_callback_is_called_back_signed() -> None:
    sent: list[tuple[str, dict[str, str], bytes]] = []
    callback = "http://127.0.0.1:9/hooks/twilio?wedding=w1&step=s1"
    await _post(
        _context(sent),
        str(
            "To=%2B393331234567&From=%2B15005550006&Body=Ciao&StatusCallback="
            + callback.replace("&", "%26").replace("?", "%3F")
        ).encode(),
    )
    ((url, headers, body),) = sent
    assert url == callback
    assert webhook.verify(body, headers, url, ["the-auth-token"], datetime.now(UTC))
    (event,) = webhook.parse(body, headers)
    assert event.type == "message.delivered"


@pytest.mark.parametrize("bad", [False, True])
async def test_an_event_on_demand_is_signed_by_twilios_rules(bad: bool) -> None:
    sent: list[tuple[str, dict[str, str], bytes]] = []
    context = _context(sent)
    await _post(context, b"To=%2B393331234567&From=%2B15005550006&Body=Ciao")
    assert sent == []
    standin = stand_in.build(context)
    assert standin.emit is not None
    url, headers, body = standin.emit("undelivered", None, bad)
    fields = dict(pair.split("=") for pair in body.decode().replace("%2B", "+").split("&"))
    assert RequestValidator("the-auth-token").validate(url, fields, headers["X-Twilio-Signature"]) is not bad
    with pytest.raises(KeyError):
        standin.emit("delivered", "SMunknown", False)


async def test_a_reset_stand_in_holds_no_message(sandbox: EmbeddedSandbox, make_call: Callable[..., Call]) -> None:
    inputs = {"to": {"id": "a", "name": "A", "phone": "+393331234567"}, "text": "Hello"}
    client = sandbox.client("twilio", account_id=ACCOUNT_SID, webhook_url="")
    effect = await client.send(make_call("twilio", "sms.send", "send_message", inputs))
    await sandbox.reset()
    look = await client.inspect(make_call("twilio", "sms.send", "send_message", inputs, facts=effect.facts))
    assert look.state == "absent"
