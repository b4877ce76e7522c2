"""What the vendors' tests share: a running sandbox, the vendors' contracts, calls."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from wedsync.domain.vendors.call import Call
from wedsync.kit.settings import Settings
from wedsync.sandbox.embedded import EmbeddedSandbox

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT.parent / "shared" / "contracts"
VECTORS = ROOT.parent / "shared" / "vectors"
#: Nothing listens there: a webhook that a stand-in sends by itself in these tests goes nowhere.
NOWHERE = "http://127.0.0.1:9"


def _must_stand(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing: the tests need ../shared/contracts and ../shared/vectors beside the project")
    return path


@pytest.fixture(scope="session")
def contract() -> Callable[[str], Any]:
    """`contract("stripe-current")` → the `Contract` of that vendor's published API, strict."""
    file = _must_stand(CONTRACTS / "contract.py")
    spec = importlib.util.spec_from_file_location("wedsync_shared_contract", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in known:
            # Parsed here: the class itself would leave the file open, which is a warning.
            document = json.loads(_must_stand(CONTRACTS / f"{name}.json").read_text(encoding="utf-8"))
            known[name] = module.Contract(document, strict=True)
        return known[name]

    return load


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder `../shared/vectors`."""
    return _must_stand(VECTORS)


@pytest_asyncio.fixture(scope="session")
async def running_sandbox() -> AsyncIterator[EmbeddedSandbox]:
    with EmbeddedSandbox(Settings(environment="local", api_url=NOWHERE, vendors={})) as running:
        yield running
        await running.close()


@pytest_asyncio.fixture
async def sandbox(running_sandbox: EmbeddedSandbox) -> AsyncIterator[EmbeddedSandbox]:
    """A sandbox as at its start; see `EmbeddedSandbox` for `client`, `faults`, `ledger`, `requests`, `set_clock`."""
    await running_sandbox.reset()
    yield running_sandbox
    await running_sandbox.reset()


@pytest.fixture
def make_call() -> Callable[..., Call]:
    """`make_call("stripe", "payments.collect", "create_intent", inputs, **fields)` → a `Call`."""

    def make(vendor: str, action: str, operation: str, inputs: dict[str, Any] | None = None, **fields: Any) -> Call:
        given: dict[str, Any] = {
            "organization_id": "org-1",
            "wedding_id": "wedding-1",
            "transaction_id": "tx-1",
            "step_id": "step-1",
            "vendor": vendor,
            "action": action,
            "operation": operation,
            "idempotency_key": f"key-{operation}",
            "reference": "0123456789abcdefghijklmnopqrstuv",
            "inputs": inputs or {},
            "first_sent_at": datetime(2026, 11, 20, 12, tzinfo=UTC),
            **fields,
        }
        return Call(**given)

    return make


@pytest.fixture(scope="session")
def assert_contract(contract: Callable[[str], Any], running_sandbox: EmbeddedSandbox) -> Callable[..., Any]:
    """`await assert_contract("stripe", "stripe-current", responses=False)`: every logged request fits the contract.

    Requests are judged under the manifest's real base URL. `skip(request)` leaves some out; `responses=True` judges
    the stand-in's answers too. Returns the number of requests judged.
    """

    async def check(
        vendor: str,
        name: str,
        *,
        requests: bool = True,
        responses: bool = False,
        skip: Callable[[dict[str, Any]], bool] = lambda _: False,
    ) -> int:
        document = contract(name)
        judged = 0
        for one in await running_sandbox.requests(vendor):
            if skip(one):
                continue
            judged += 1
            url = running_sandbox.real_url(vendor, one["url"])
            if requests:
                body = base64.b64decode(one["body_base64"])
                faults = document.check_request(one["method"], url, one["headers"], body)
                assert faults == [], f"{one['method']} {url} {body[:500]!r}"
            if responses and one["response_body_base64"] is not None:
                body = base64.b64decode(one["response_body_base64"])
                faults = document.check_response(one["method"], url, one["status"], one["response_headers"], body)
                assert faults == [], f"{one['status']} {one['method']} {url} {body[:500]!r}"
        return judged

    return check
