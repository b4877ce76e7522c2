from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio
from api.main import serve
from wedsync.kit.settings import Settings
asyncio.run(serve(Settings()))
"""


async def test_the_program_serves_without_temporal_and_ends_by_a_signal(database_urls: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        "WEDSYNC_API_PORT": str(port),
        "WEDSYNC_DATABASE_URL": database_urls.app,
        "WEDSYNC_STATE_DIR": str(tmp_path),
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "TEMPORAL_CONFIG_FILE": "/dev/null",
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        # Tries to connect again, with growing waits, while the program comes up.
        transport = httpx.AsyncHTTPTransport(retries=7)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{port}") as client:
            ready = await client.get("/readyz", timeout=30)
            assert ready.json() == {"status": "ready", "database": "ok", "temporal": "unreachable"}
            assert "server" not in ready.headers
        program.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            _, said = await program.communicate()
        # uvicorn ends by the signal that it was sent, once everything is finished.
        assert program.returncode in (0, -signal.SIGTERM)
        assert b"Traceback" not in said
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
