"""What the platform asks of its own accord goes the way that every call goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.routing import configure, fail, open_admission_controller, rows
from wedsync.domain.errors import ThrottledUntil, VendorThrottled, VendorUnavailable
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp, new_pool
from wedsync.kit.settings import Settings
from wedsync.kit.vendor import Account
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.quotas import queries as quotas
from wedsync.usecases.inbox.reconcile import Reconciler
from wedsync.vendors.paypal.certificates import Certificates
from wedsync.vendors.paypal.sandbox_signing import CERTIFICATES_PATH, signer
from wedsync.vendors.registry import load_registry

LATER = timedelta(minutes=5)


class PipelineStage:
    """A process that asks vendors in the sandbox."""

    def __init__(self, controller: AdmissionController, sandbox: EmbeddedSandbox, pool: Any) -> None:
        accounts = {"api_key": "local-api-key", "client_id": "c", "client_secret": "s"}
        vendors = {name: {"base_url": sandbox.vendor_url(name), **accounts} for name in ("stripe", "paypal", "vsco")}
        settings = Settings.model_validate({"vendors": vendors})
        registry = load_registry()
        self.controller = controller
        self.sandbox = sandbox
        self.gateway = VendorGateway(settings, registry, pool, controller)
        self.reconciler = Reconciler(controller.breakers.db, settings, registry, self.gateway)

    async def fault(self, vendor: str, **fault: Any) -> None:
        async with httpx.AsyncClient() as http:
            root = self.sandbox.vendor_url(vendor).rpartition("/")[0]
            (await http.put(f"{root}/_sandbox/faults/{vendor}", json=fault)).raise_for_status()

    async def calls(self, service: str) -> list[tuple[str, str, str]]:
        await self.controller.call_recorder.flush()
        found = await rows(
            self.controller,
            "SELECT operation, outcome, reason FROM vendor_calls WHERE service = :service ORDER BY id",
            service=service,
        )
        return [(row.operation, row.outcome, row.reason) for row in found]

    async def limit(self, service: str, calls: int) -> None:
        policy = QuotaPolicy(windows=(WindowLimit(window="day", limit=calls),))
        async with self.controller.breakers.db.system() as conn:
            await quotas.put_policy(conn, (service, "default"), policy, "key:test", utc_now())
        await self.controller.routing_table.load()


@pytest.fixture
async def stage(fresh_database_urls: Any) -> AsyncIterator[PipelineStage]:
    pool = new_pool()
    async with open_admission_controller(str(fresh_database_urls.app)) as controller:
        with EmbeddedSandbox(Settings()) as sandbox:
            yield PipelineStage(controller, sandbox, pool)
            await sandbox.close()
    await pool.aclose()


async def test_each_page_of_a_list_is_a_call_of_its_own_with_its_record_and_its_quota(stage: PipelineStage) -> None:
    await stage.limit("stripe", 1000)
    await stage.reconciler.reconcile("stripe", utc_now() + LATER)
    requests = await stage.sandbox.requests("stripe")
    assert len(requests) == 2
    assert await stage.calls("stripe") == [("list_events", "ok", None)] * 2
    left = await rows(stage.controller, "SELECT quota_left FROM vendor_calls ORDER BY id")
    assert [row.quota_left for row in left] == [999, 998]


async def test_nothing_is_asked_through_an_open_circuit_and_the_refusal_is_recorded(stage: PipelineStage) -> None:
    await configure(stage.controller, "stripe", {"open_seconds": 60})
    await fail(stage.controller)
    await stage.controller.call_recorder.flush()
    assert stage.controller.routing_table.circuit("stripe", "default").state == "open"
    with pytest.raises(VendorUnavailable) as refused:
        await stage.reconciler.reconcile("stripe", utc_now())
    assert refused.value.reason == "circuit_open"
    assert await stage.sandbox.requests("stripe") == []
    assert (await stage.calls("stripe"))[-1] == ("list_events", "vendor_unavailable", "circuit_open")


async def test_lists_that_fail_open_the_circuit(stage: PipelineStage) -> None:
    await configure(stage.controller, "stripe", {"open_seconds": 60})
    await stage.fault("stripe", mode="down")
    for _ in range(4):
        with pytest.raises(VendorUnavailable):
            await stage.reconciler.reconcile("stripe", utc_now())
    await stage.controller.call_recorder.flush()
    assert stage.controller.routing_table.circuit("stripe", "default").state == "open"


async def test_a_429_to_a_list_holds_for_all_calls_and_theirs_for_lists(stage: PipelineStage) -> None:
    await stage.fault("stripe", mode="throttle", retry_after_seconds=120)
    with pytest.raises(VendorThrottled):
        await stage.reconciler.reconcile("stripe", utc_now())
    requests = len(await stage.sandbox.requests("stripe"))
    with pytest.raises(ThrottledUntil) as until:
        await stage.reconciler.reconcile("stripe", utc_now())
    assert until.value.until - utc_now() > timedelta(seconds=60)
    assert len(await stage.sandbox.requests("stripe")) == requests


async def test_a_list_stops_where_its_quota_ends(stage: PipelineStage) -> None:
    async def intent(http: VendorHttp, account: Account) -> None:
        for _ in range(6):
            await http.request("GET", "/v1/events", headers={"Authorization": f"Bearer {account.api_key}"})

    await stage.limit("stripe", 5)
    with pytest.raises(ThrottledUntil):
        await stage.gateway.query("stripe", "list_events", intent)
    assert len(await stage.sandbox.requests("stripe")) <= 5


async def test_all_of_one_list_is_asked_of_one_endpoint(stage: PipelineStage) -> None:
    root = stage.sandbox.vendor_url("stripe")
    endpoints = tuple(Endpoint(name=name, base_url=f"{root}@{name}", region=name) for name in ("eu-west", "us-east"))
    await configure(stage.controller, endpoints=endpoints, strategy="round_robin")

    async def intent(http: VendorHttp, account: Account) -> str:
        assert account.base_url == http.base_url
        for _ in range(3):
            await http.request("GET", "/v1/events", headers={"Authorization": "Bearer local-api-key"})
        return account.base_url

    seen = {await stage.gateway.query("stripe", "list_events", intent) for _ in range(2)}
    assert seen == {endpoint.base_url for endpoint in endpoints}
    await stage.controller.call_recorder.flush()
    found = await rows(stage.controller, "SELECT endpoint, count(*) AS calls FROM vendor_calls GROUP BY endpoint")
    assert {row.endpoint: row.calls for row in found} == {"eu-west": 3, "us-east": 3}


async def test_a_token_that_a_list_needs_is_a_call_too(stage: PipelineStage) -> None:
    await stage.reconciler.reconcile("paypal", utc_now() + LATER)
    assert await stage.calls("paypal") == [("list_events", "ok", None)] * len(await stage.sandbox.requests("paypal"))


async def test_a_certificate_goes_the_same_way_and_is_fetched_once_for_all_who_wait(stage: PipelineStage) -> None:
    certificates = Certificates()
    url = f"{stage.sandbox.vendor_url('paypal')}{CERTIFICATES_PATH}/{signer().certificate_id}"

    async def fetch() -> None:
        await stage.gateway.query("paypal", "signing_key", lambda http, _: certificates.fetch(url, http))

    await asyncio.gather(*(fetch() for _ in range(10)))
    await fetch()
    # The certificate and, of a stand-in, its root.
    assert len(await stage.sandbox.requests("paypal")) == 2
    assert await stage.calls("paypal") == [("signing_key", "ok", None)] * 2
    assert certificates.key(url, datetime.now(UTC)) is not None


async def test_forged_addresses_cost_few_calls_however_many_come_at_once(stage: PipelineStage) -> None:
    certificates = Certificates()
    base = f"{stage.sandbox.vendor_url('paypal')}{CERTIFICATES_PATH}/"

    async def fetch(number: int) -> None:
        address = f"{base}FORGED-{number}"
        await stage.gateway.query("paypal", "signing_key", lambda http, _: certificates.fetch(address, http))

    await asyncio.gather(*(fetch(number) for number in range(200)))
    assert len(await stage.sandbox.requests("paypal")) <= 20
