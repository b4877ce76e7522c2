from __future__ import annotations

import asyncio
import json
import keyword
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings

from api import openapi

#: Of Python, TypeScript, PHP and C#.
_RESERVED = """
    abstract as base bool break byte callable case catch char checked class clone const continue debugger decimal
    declare default delegate delete die do double echo else elseif empty enddeclare endfor endforeach endif endswitch
    endwhile enum eval event exit explicit export extends extern false final finally fixed float fn for foreach function
    global goto if implements implicit import in include include_once instanceof insteadof int interface internal is
    isset let list lock long match namespace new null object operator or out override package params print private
    protected public readonly ref require require_once return sbyte sealed short sizeof stackalloc static string struct
    super switch this throw trait true try typeof uint ulong unchecked unsafe unset ushort use using var virtual void
    volatile while with xor yield
"""
RESERVED = {word.lower() for word in (*keyword.kwlist, *_RESERVED.split())}
DOCUMENT: dict[str, Any] = json.loads(openapi.FILE.read_text())
BOUNDS = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, said) for path, item in DOCUMENT["paths"].items() for method, said in item.items()]


def test_the_committed_file_is_what_the_application_says() -> None:
    assert openapi.FILE.read_text() == openapi.render(), "run `python -m api.openapi`"


def test_the_promised_paths_are_there() -> None:
    assert {(method.upper(), path.removeprefix("/api/v1")) for path, method, _ in operations()} >= {
        ("POST", "/plans/validate"),
        ("POST", "/weddings"),
        ("GET", "/weddings"),
        ("GET", "/weddings/{wedding}"),
        ("DELETE", "/weddings/{wedding}"),
        ("GET", "/weddings/{wedding}/steps"),
        ("POST", "/weddings/{wedding}/transactions"),
        ("GET", "/weddings/{wedding}/transactions/{transaction}"),
        ("POST", "/weddings/{wedding}/transactions/{transaction}/undo"),
        ("POST", "/weddings/{wedding}/transactions/{transaction}/cancel"),
        ("POST", "/weddings/{wedding}/steps/{step}/decision"),
        ("GET", "/weddings/{wedding}/events"),
        ("POST", "/api/integrations/webhooks/{source}"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("POST", "/codec/decode"),
    }


def test_operations_have_plain_names_of_their_own_and_nothing_is_a_choice_of_schemas() -> None:
    names = [said["operationId"] for _, _, said in operations()]
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name)] == []
    assert len(names) == len(set(names))
    assert {"list_weddings", "create_wedding", "get_wedding", "cancel_wedding", "submit_transaction"} <= set(names)
    assert '"oneOf"' not in json.dumps(DOCUMENT)


def test_schemas_have_plain_names_of_their_own() -> None:
    names = list(DOCUMENT["components"]["schemas"])
    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z0-9]*)+", name)] == []
    assert len({name.lower() for name in names}) == len(names)


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the document with its path; examples are data and left out."""
    if isinstance(node, dict):
        yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, item in items:
        if name not in ("example", "examples"):
            yield from nodes(item, f"{path}/{name}")


def test_nothing_stands_beside_a_reference_and_no_default_is_a_list_or_an_object() -> None:
    assert [path for path, node in nodes(DOCUMENT) if "$ref" in node and len(node) > 1] == []
    schemas = [(path, node) for path, node in nodes(DOCUMENT) if not path.endswith("/properties")]
    assert [path for path, node in schemas if isinstance(node.get("default"), list | dict)] == []


def names_of(operation: dict[str, Any]) -> list[str]:
    return [operation["operationId"], *(parameter["name"] for parameter in operation.get("parameters", ()))]


def test_no_name_is_a_reserved_word() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    named = [(name, [name, *said.get("properties", ())]) for name, said in schemas.items()]
    named += [(said["operationId"], names_of(said)) for *_, said in operations()]
    assert [(where, name) for where, names in named for name in names if name.lower() in RESERVED] == []


def test_the_document_says_where_the_api_is() -> None:
    assert [server["url"] for server in DOCUMENT["servers"]] == ["http://127.0.0.1:8080"]


def test_every_refusal_is_described_as_a_problem() -> None:
    for path, method, said in operations():
        for status, response in said["responses"].items():
            if int(status) >= 400 and "webhooks" not in path:
                assert set(response["content"]) == {"application/problem+json"}, (method, path, status)


def schema_of(said: dict[str, Any], status: str) -> dict[str, Any]:
    schema = said["responses"][status]["content"]["application/json"]["schema"]
    return {**schema, "components": DOCUMENT["components"]}


async def test_the_examples_work_and_their_answers_are_as_described(new_api: Any, fresh_database_urls: Any) -> None:
    api = await new_api(fresh_database_urls)
    wedding_id = transaction_id = ""
    sent = 0
    for path, method, said in operations():
        content = said.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in content.get("examples", {}).items():
            if "decision" in path:
                await api.hold(wedding_id, "deposit", transaction_id)
            target = path.replace("{wedding}", wedding_id).replace("{step}", "deposit")
            response = await api.http.request(method, target, json=example["value"], headers=api.key())
            sent += 1
            assert str(response.status_code) in said["responses"], (path, name, response.text)
            assert response.status_code < 300, (path, name, response.text)
            jsonschema.validate(response.json(), schema_of(said, str(response.status_code)))
            if path == "/api/v1/weddings":
                wedding_id = response.json()["id"]
            if "/transactions" in target:
                transaction_id = response.json()["id"]
                await api.move(wedding_id, transaction_id, "completed")
            if "decision" in path:
                await api.move(wedding_id, response.json()["id"], "completed")
    assert sent >= 7
    for path in (f"/weddings/{wedding_id}", "/weddings", f"/weddings/{wedding_id}/transactions/{transaction_id}"):
        template = path.replace(wedding_id, "{wedding}").replace(transaction_id, "{transaction}")
        said = DOCUMENT["paths"][f"/api/v1{template}"]["get"]
        jsonschema.validate((await api.get(path)).json(), schema_of(said, "200"))


GENERATED = [
    operation.ok()
    for operation in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    if "/events" not in operation.ok().path
]


@pytest.mark.parametrize("operation", GENERATED, ids=lambda operation: f"{operation.method.upper()} {operation.path}")
async def test_nothing_that_is_sent_breaks_the_server(api: Any, operation: Any) -> None:
    wedding_id, transaction_id = await api.orchestrated()
    loop = asyncio.get_running_loop()

    async def send(case: Any) -> Any:
        known = {"wedding": wedding_id, "transaction": transaction_id, "step": "deposit"}
        parts = case.as_transport_kwargs(base_url="http://api.test")
        url = parts["url"]
        if len(str(case.path_parameters or {})) % 2 and known.keys() & (case.path_parameters or {}).keys():
            url = "http://api.test" + re.sub(r"\{(\w+)\}", lambda m: known.get(m[1], "x"), operation.full_path)
        headers = {
            name: str(value).encode("latin-1", "replace") for name, value in (parts.get("headers") or {}).items()
        }
        headers["Authorization"] = api.http.headers["authorization"].encode()
        body = {name: parts[name] for name in ("json", "data", "content") if parts.get(name) is not None}
        if isinstance(body.get("data"), str | bytes):
            body["content"] = body.pop("data")
        params = dict(parts.get("params") or {})
        if re.fullmatch(r"\d+s?", str(params.get("wait", ""))):
            # Nothing settles here.
            params["wait"] = "0s"
        return await api.http.request(parts["method"], url, params=params, headers=headers, **body)

    def check(case: Any) -> None:
        response = asyncio.run_coroutine_threadsafe(send(case), loop).result(30)
        assert response.status_code < 500 or _is_asked_for(response.json()), response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"

    run = BOUNDS(given(case=operation.as_strategy())(check))
    await asyncio.to_thread(run)


def _is_asked_for(problem: dict[str, Any]) -> bool:
    """There is no Temporal here, and a report may be asked for sooner than it can be made."""
    return problem["code"] == "temporal_unreachable" or problem["detail"].startswith("the report took longer than ")
