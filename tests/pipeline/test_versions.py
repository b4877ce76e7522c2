"""What a version does to the requests that vendors get."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from sqlalchemy import text

from tests.support.migrations import payment_call
from tests.support.routing import a_call, eventually, open_admission_controller, rows
from tests.support.stage import stage_settings
from wedsync.domain.errors import VendorRejected, WedsyncError
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions.selection import Chosen
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings
from wedsync.kit.vendor import Account
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway, speaking
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.versions import queries as versions
from wedsync.vendors.registry import load_registry

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSandbox]:
    with EmbeddedSandbox(Settings(state_dir=tmp_path_factory.mktemp("sandbox"))) as running:
        yield running
        await running.close()


@dataclass
class PipelineStage:
    """The way out, and the sandbox at its end."""

    gateway: VendorGateway
    controller: AdmissionController
    sandbox: EmbeddedSandbox

    async def put(self, service: str, **spec: Any) -> None:
        async with self.controller.breakers.db.system() as conn:
            await versions.put_spec(conn, service, VersionSpec.model_validate(spec), "key:test", utc_now())
        await self.controller.routing_table.load()

    async def pin(self, service: str, version: str | None) -> None:
        async with self.controller.breakers.db.system() as conn:
            await versions.pin(conn, service, None, version, "key:test", utc_now() - DAY)
        await self.controller.routing_table.load()

    async def last(self, vendor: str) -> dict[str, Any]:
        return (await self.sandbox.requests(vendor))[-1]


@pytest.fixture
async def stage(database_url: str, sandbox: EmbeddedSandbox, tmp_path: Path) -> AsyncIterator[PipelineStage]:
    pool = new_pool()
    async with open_admission_controller(database_url) as controller:
        gateway = VendorGateway(stage_settings(database_url, sandbox, tmp_path), load_registry(), pool, controller)
        yield PipelineStage(gateway, controller, sandbox)
        async with controller.breakers.db.system() as conn:
            for table in ("version_pins", "vendor_versions"):
                await conn.execute(text(f"DELETE FROM {table}"))
    await pool.aclose()


async def test_stripe_is_asked_by_its_header(stage: PipelineStage) -> None:
    await stage.gateway.send(payment_call("org", "w"))
    assert (await stage.last("stripe"))["headers"]["stripe-version"] == "2026-10-28.endive"
    await stage.pin("stripe", "2026-07-29.dahlia")
    made = await stage.gateway.send(payment_call("org", "w"))
    assert (await stage.last("stripe"))["headers"]["stripe-version"] == "2026-07-29.dahlia"
    assert made.facts["api_version"] == "2026-07-29.dahlia"
    await stage.controller.call_recorder.flush()
    statement = "SELECT version FROM vendor_calls WHERE service = 'stripe' ORDER BY id DESC LIMIT 2"
    assert [row.version for row in await rows(stage.controller, statement)] == [
        "2026-07-29.dahlia",
        "2026-10-28.endive",
    ]


async def test_twilio_is_asked_by_the_path(stage: PipelineStage) -> None:
    call = a_call(
        "twilio",
        action="sms.send",
        operation="send_message",
        inputs={"to": {"id": "c", "name": "Giulia", "phone": "+390318125551"}, "text": "hello"},
    )
    await stage.put("twilio", name="2027-01-01")
    for version, path in (("2027-01-01", "/2027-01-01/Accounts/"), (None, "/2010-04-01/Accounts/")):
        await stage.pin("twilio", version)
        # The stage's account is none that Twilio knows: what matters is what it was asked.
        with suppress(WedsyncError):
            await stage.gateway.send(call)
        assert path in urlsplit((await stage.last("twilio"))["url"]).path


async def test_a_business_is_asked_by_the_header_that_its_version_names(stage: PipelineStage) -> None:
    call = a_call("generic", account="villa", action="booking.request", operation="look", facts={})
    call = call.model_copy(update={"facts": {"booking_id": "b", "api_version": "2"}})
    await stage.gateway.inspect(call)
    assert (await stage.last("generic"))["headers"]["api-version"] == "2"
    await stage.gateway.inspect(call.model_copy(update={"facts": {"booking_id": "b"}}))
    assert "api-version" not in (await stage.last("generic"))["headers"]


def test_a_version_in_the_address_takes_the_place_of_the_manifests() -> None:
    manifest = load_registry().manifests["microsoft_graph"]
    account = Account(vendor="microsoft_graph", base_url=manifest.base_url)
    beta = next(spec for spec in manifest.versions if spec.name == "beta")
    changed = speaking(account, Chosen(name="beta", spec=beta), manifest)
    assert changed.base_url == "https://graph.microsoft.com/beta"
    assert speaking(account, Chosen(name="a label"), manifest) == account


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"wedding_compatible": False}, "version_not_for_weddings"),
        ({"sunset_on": "2026-01-01"}, "version_sunset"),
    ],
)
async def test_a_call_by_a_version_that_may_not_be_is_refused_and_recorded(
    stage: PipelineStage, spec: dict[str, Any], reason: str
) -> None:
    await stage.put("stripe", name="x", header="Stripe-Version", **spec)
    await stage.pin("stripe", "x")
    before = len(await stage.sandbox.requests("stripe"))
    with pytest.raises(VendorRejected) as refused:
        await stage.gateway.send(payment_call("org", "w"))
    assert refused.value.reason == reason
    assert len(await stage.sandbox.requests("stripe")) == before
    await stage.controller.call_recorder.flush()
    (kept,) = await rows(stage.controller, "SELECT version, reason FROM vendor_calls ORDER BY id DESC LIMIT 1")
    assert tuple(kept) == ("x", reason)


async def test_a_sunset_that_an_operator_overrides_is_passed(stage: PipelineStage) -> None:
    overridden = {"sunset_on": "2026-01-01", "sunset_overridden": True}
    await stage.put("stripe", name="2020-01-01", header="Stripe-Version", **overridden)
    await stage.pin("stripe", "2020-01-01")
    assert (await stage.gateway.send(payment_call("org", "w"))).state == "done"


async def test_a_deprecated_version_is_warned_of_once_a_day(stage: PipelineStage) -> None:
    soon = (utc_now() + 30 * DAY).date().isoformat()
    await stage.put("stripe", name="2024-06-20", header="Stripe-Version", status="deprecated", sunset_on=soon)
    await stage.pin("stripe", "2024-06-20")
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            await stage.gateway.send(payment_call("org", "w"))
    warned = [line for line in logs if line["event"] == "version.deprecated"]
    assert [(line["version"], line["days_left"]) for line in warned] == [("2024-06-20", 30)]


async def test_a_pin_is_known_in_every_process_within_a_second(stage: PipelineStage, database_url: str) -> None:
    async with open_admission_controller(database_url) as other:
        await stage.pin("stripe", "2026-07-29.dahlia")
        await eventually(lambda: other.routing_table.pins("stripe"), 1)
        assert [pin.version for pin in other.routing_table.pins("stripe")] == ["2026-07-29.dahlia"]
