"""The embedded Temporal server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.request import urlopen

from temporalio.client import Client, WorkflowExecutionStatus

from wedsync.kit import temporal
from wedsync.local.temporal_server import EmbeddedTemporal


def _read(url: str) -> bytes:
    with urlopen(url) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


async def test_started_workflows_survive_a_kill_and_addresses_stay(tmp_path: Path) -> None:
    server = EmbeddedTemporal(tmp_path, codec_endpoint="http://127.0.0.1:1/codec")
    server.start()
    try:
        address, ui_url = server.address, server.ui_url
        client = await Client.connect(address)
        handle = await client.start_workflow("Any", id="any", task_queue="none")
        server.kill()
        server.restart()
        assert (server.address, server.ui_url) == (address, ui_url)
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        assert b"http://127.0.0.1:1/codec" in await asyncio.to_thread(_read, f"{ui_url}/api/v1/settings")
    finally:
        server.stop()


async def test_the_embedded_server_needs_no_search_attribute_added(temporal_client: Client) -> None:
    done = await temporal.provision(temporal_client)
    assert done.added == ()
    assert done.retention == temporal.DEFAULT_RETENTION
