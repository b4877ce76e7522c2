"""Reaching Temporal: where, with what converter, and what its namespace is given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from google.protobuf.json_format import MessageToJson
from pydantic import BaseModel, ConfigDict
from temporalio import workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from wedsync.domain.errors import Conflict, TemporalUnreachable
from wedsync.domain.weddings import search_attributes
from wedsync.kit import temporal
from wedsync.kit.settings import Settings
from wedsync.local.ports import free_port
from wedsync.local.temporal_server import EmbeddedTemporal, program


class Note(BaseModel):
    model_config = ConfigDict(frozen=True)
    guest: str


@workflow.defn(sandboxed=False)
class Fail:
    @workflow.run
    async def run(self, note: Note) -> Note:
        raise ApplicationError(f"could not reach {note.guest}", note)


@pytest.fixture
async def bare_env() -> AsyncIterator[WorkflowEnvironment]:
    """A server of the test's own without our search attributes."""
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=str(program())) as env:
        yield env


@pytest.fixture
def bare_client(bare_env: WorkflowEnvironment) -> Client:
    return bare_env.client


async def test_history_holds_neither_inputs_nor_errors_nor_summaries_in_plain(temporal_client: Client) -> None:
    async with Worker(temporal_client, task_queue="secret", workflows=[Fail]):
        handle = await temporal_client.start_workflow(
            Fail.run, Note(guest="Amelie"), id="secret", task_queue="secret", static_summary="Amelie's wedding"
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == "could not reach Amelie"
    raw = "".join([MessageToJson(event) async for event in handle.fetch_history_events()])
    assert "Amelie" not in raw
    assert "Encoded failure" in raw
    assert await (await handle.describe()).static_summary() == "Amelie's wedding"


async def test_the_address_comes_from_temporals_own_variables(
    temporal_server: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "default")
    assert temporal.address_and_namespace() == (temporal_server.address, "default")
    client = await temporal.connect(Settings())
    assert await client.service_client.check_health()


async def test_the_address_comes_from_a_profile(
    temporal_server: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "temporal.toml"
    profile.write_text(f'[profile.default]\naddress = "{temporal_server.address}"\nnamespace = "mine"\n')
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(profile))
    assert (await temporal.connect(Settings())).namespace == "mine"


async def test_an_unreachable_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    with pytest.raises(TemporalUnreachable, match=address):
        await temporal.connect(Settings())
    lazy = await temporal.connect(Settings(), lazy=True)
    assert lazy.namespace == "default"


async def test_provisioning_adds_what_is_missing_once(bare_client: Client) -> None:
    first = await temporal.provision(bare_client)
    second = await temporal.provision(bare_client)
    assert set(first.added) == set(search_attributes.ALL)
    assert second.added == ()
    assert first.retention == second.retention == temporal.DEFAULT_RETENTION
    attributes = TypedSearchAttributes(
        [SearchAttributePair(temporal.WEDDING_ID, "w1"), SearchAttributePair(temporal.VENDOR, ["stripe", "vsco"])]
    )
    handle = await bare_client.start_workflow("Any", id="any", task_queue="none", search_attributes=attributes)
    assert (await handle.describe()).typed_search_attributes[temporal.VENDOR] == ["stripe", "vsco"]


async def test_an_attribute_of_another_type_is_a_conflict(bare_client: Client) -> None:
    wrong = {"WeddingPhase": IndexedValueType.INDEXED_VALUE_TYPE_INT}
    await bare_client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=bare_client.namespace, search_attributes=wrong)
    )
    with pytest.raises(Conflict, match="WeddingPhase"):
        await temporal.provision(bare_client)


async def test_provisioning_never_shortens_a_retention(
    temporal_client: Client, temporal_server: EmbeddedTemporal
) -> None:
    name = f"ns-{uuid4().hex[:8]}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=90))
    await temporal_client.workflow_service.register_namespace(request)
    client = await Client.connect(temporal_server.address, namespace=name)
    assert (await temporal.provision(client)).retention == timedelta(days=90)


async def test_a_server_that_went_away_is_unreachable(bare_env: WorkflowEnvironment) -> None:
    client = bare_env.client
    await bare_env.shutdown()
    with pytest.raises(TemporalUnreachable, match="does not answer"):
        await temporal.provision(client)
