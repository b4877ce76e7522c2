"""Every kind of health check, over real HTTP and on real Postgres."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from tests.support.routing import open_admission_controller
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import InvalidInput
from wedsync.domain.health.status import ProbeResult
from wedsync.domain.routing.vendor_config import HealthCheck, ServiceConfig
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.usecases.health.probe import probe
from wedsync.usecases.routing.operate import Operator
from wedsync.vendors.registry import load_registry, vendor_probe

OAUTH = HealthCheck(kind="oauth", url="/me", token_url="/token", scope="read write", timeout_seconds=2)
DATABASE = HealthCheck(kind="database", timeout_seconds=5)
BASIC = "Basic " + base64.b64encode(b"client:hush").decode()


@dataclass
class Vendor:
    """A server whose answers, by "METHOD path", a test sets; a callable is handed the request's headers and body."""

    answers: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    requests: list[tuple[str, dict[str, str], str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
                name = head[0].rpartition(" ")[0]
                self.requests.append((name, headers, body))
                status, document = self.answers.get(name, (404, {}))
                content = json.dumps(document).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)
                await writer.drain()
        writer.close()


Probe = Callable[..., Any]


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    found = Vendor()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@pytest.fixture
async def result(vendor: Vendor, database_url: str) -> AsyncIterator[Probe]:
    """`await result(check, service)`: one probe of a service that stands at the vendor's address."""
    account = VendorSettings(
        base_url=f"http://127.0.0.1:{vendor.port}",
        api_key=SecretStr("key"),
        account_id="AC1",
        client_id="client",
        client_secret=SecretStr("hush"),
    )
    databases = {"ours": SecretStr(database_url), "gone": SecretStr("postgresql://nobody:pw@127.0.0.1:1/none")}
    settings = Settings(vendors={"paypal": account, "twilio": account}, probe_databases=databases)
    pool = new_pool()
    async with open_admission_controller(database_url) as controller:
        gateway = VendorGateway(settings, load_registry(), pool, controller)

        async def probe_vendor(check: HealthCheck, service: str = "paypal") -> ProbeResult:
            config = ServiceConfig(service=service, health=check)
            return await probe(gateway, config, config.endpoints[0])

        yield probe_vendor
    await pool.aclose()


async def test_an_answer_that_is_expected_means_well(result: Probe, vendor: Vendor) -> None:
    vendor.answers["GET /well"] = (200, {})
    assert (await result(HealthCheck(url="/well"))).ok
    assert (await result(HealthCheck(url="/nowhere"))).ok
    narrow = await result(HealthCheck(url="/nowhere", expected_statuses=(200,)))
    assert (narrow.ok, bool(narrow.detail)) == (False, True)


async def test_a_token_is_fetched_and_used(result: Probe, vendor: Vendor) -> None:
    vendor.answers = {"POST /token": (200, {"access_token": "t1"}), "GET /me": (200, {})}
    found = await result(OAUTH)
    assert (found.ok, found.detail) == (True, "")
    (_, token, form), (_, me, _) = vendor.requests
    assert token["authorization"] == BASIC
    assert form == "grant_type=client_credentials&scope=read+write"
    assert me["authorization"] == "Bearer t1"


@pytest.mark.parametrize(
    "answers",
    [
        {"POST /token": (401, {"error": "invalid_client"})},
        {"POST /token": (500, {})},
        {"POST /token": (200, {"token": "t1"})},
        {"POST /token": (200, ["t1"])},
        {"POST /token": (200, {"access_token": "t1"}), "GET /me": (401, {})},
        {"POST /token": (200, {"access_token": "t1"}), "GET /me": (403, {})},
        {"POST /token": (200, {"access_token": "t1"}), "GET /me": (503, {})},
    ],
)
async def test_a_credential_that_is_not_taken_means_unwell(result: Probe, vendor: Vendor, answers: Any) -> None:
    vendor.answers = answers
    found = await result(OAUTH)
    assert (found.ok, bool(found.detail)) == (False, True)
    assert "hush" not in found.detail


@pytest.mark.parametrize(("name", "ok"), [("", True), ("ours", True), ("gone", False), ("unknown", False)])
async def test_a_database_is_asked(result: Probe, name: str, ok: bool) -> None:
    found = await result(DATABASE.model_copy(update={"database": name}))
    assert (found.ok, bool(found.detail)) == (ok, not ok)
    assert "pw" not in found.detail


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        ((200, {"status": "active"}), True),
        ((200, {"status": "suspended"}), False),
        ((200, {}), False),
        ((401, {"code": 20003}), False),
    ],
)
async def test_a_vendors_own_probe_knows_more_than_a_status(
    result: Probe, vendor: Vendor, answer: Any, ok: bool
) -> None:
    vendor.answers["GET /2010-04-01/Accounts/AC1.json"] = answer
    assert (await result(HealthCheck(kind="custom"), "twilio")).ok is ok


async def test_a_vendor_without_a_probe_of_its_own_is_unwell_and_never_an_error(result: Probe) -> None:
    found = await result(HealthCheck(kind="custom"))
    assert (found.ok, found.detail) == (False, "paypal has no probe of its own")
    assert vendor_probe("nobody") is None


async def test_a_look_ends_with_its_timeout(result: Probe) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await result(HealthCheck(url=f"http://127.0.0.1:{port}/", timeout_seconds=0.2))
    ended.set()
    server.close()
    assert not found.ok
    assert found.response_ms < 2000


@pytest.mark.parametrize("wrong", [{"kind": "oauth"}, {"token_url": "/token"}, {"kind": "tcp"}])
def test_a_check_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        HealthCheck(**wrong)


async def test_an_operator_can_not_ask_for_a_probe_that_is_not_there(database_url: str) -> None:
    async with open_admission_controller(database_url) as controller:
        operator = Operator(controller.breakers, Principal(organization_id="o", key_id="k"), utc_now())
        config = controller.routing_table.config("paypal").model_copy(update={"health": HealthCheck(kind="custom")})
        with pytest.raises(InvalidInput) as caught:
            await operator.configure(config)
    assert caught.value.reason == "no_probe"
