"""The version that calls speak where nothing is pinned, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.routing import configure, open_admission_controller, pass_one
from wedsync.domain.errors import Conflict
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.versions.migration import Migration, MigrationRules
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.usecases.versions.manage import show_versions
from wedsync.usecases.versions.request_migration import plan_migration
from wedsync.vendors.registry import load_registry

MANIFEST, OTHER, LABEL = "2026-10-28.endive", "2026-09-30.endive", "our-own-proxy"


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        yield opened


def planned(controller: AdmissionController, to_version: str) -> Migration:
    manifest = load_registry().manifests["stripe"]
    return plan_migration(
        controller.routing_table,
        manifest,
        "stripe",
        None,
        to_version,
        MigrationRules(),
        migration_id="m",
        now=utc_now(),
    )


@pytest.mark.parametrize(("version", "default"), [("", MANIFEST), (OTHER, OTHER), (LABEL, MANIFEST)])
async def test_whatever_an_endpoint_is_said_to_speak_one_version_is_the_default(
    controller: AdmissionController, version: str, default: str
) -> None:
    await configure(controller, endpoints=(Endpoint(name="eu", base_url="https://eu.example.com", version=version),))
    shown = show_versions(controller.routing_table, "stripe", None, utc_now())
    assert [one.name for one in shown.data if one.is_default] == [default]
    with pytest.raises(Conflict) as refused:
        planned(controller, default)
    assert refused.value.reason == "version_in_use"


@pytest.mark.parametrize("version", ["", LABEL])
async def test_a_migration_is_measured_by_what_the_calls_before_it_are_recorded_by(
    controller: AdmissionController, version: str
) -> None:
    await configure(controller, endpoints=(Endpoint(name="eu", base_url="https://eu.example.com", version=version),))
    admission = await pass_one(controller, ok=True)
    assert planned(controller, OTHER).from_version == admission.version.name == (version or MANIFEST)
