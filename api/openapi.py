"""The OpenAPI file: `python -m api.openapi` writes `api/openapi.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.middleware import GUARDED
from api.problems import GATEWAY_ONLY, KINDS, MEDIA_TYPE, Problem
from wedsync.domain.weddings.plan import Plan

FILE = Path(__file__).with_name("openapi.json")
_REF = "#/components/schemas/{model}"
#: Beside what an endpoint says itself, every guarded one may answer these.
_GUARDED = (401, 413, 503)


def describe(app: FastAPI) -> None:
    """Have the app describe itself with problem details for every refusal."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = document["components"]["schemas"]
    _, extra = models_json_schema([(Plan, "validation"), (Problem, "serialization")], ref_template=_REF)
    schemas.update(extra["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"]["properties"]["code"]["enum"] = sorted(KINDS)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _name(operation, path, method)
            _add_refusals(operation, path, method)
    return document


def _name(operation: dict[str, Any], path: str, method: str) -> None:
    words = [part for part in path.removeprefix("/api/v1").strip("/").split("/") if part]
    operation["operationId"] = "_".join([method, *(word.strip("{}").replace("-", "_") for word in words)])


def _add_refusals(operation: dict[str, Any], path: str, method: str) -> None:
    responses = operation["responses"]
    statuses = {int(status) for status in responses if status.isdecimal() and int(status) >= 400}
    if path.startswith("/api/v1/vendor-links/"):
        statuses.update((404, 410, 503))
        if method == "post":
            statuses.update((400, 409, 413, 422))
    elif path.startswith(GUARDED):
        statuses.update(_GUARDED)
        if "{" in path:
            statuses.add(404)
        if method == "post":
            statuses.update((400, 409, 415, 422))
        if method == "put":
            statuses.update((400, 422))
        if method == "delete":
            statuses.update((400, 409))
        if "cursor" in {parameter["name"] for parameter in operation.get("parameters", ())}:
            statuses.add(400)
    for status in sorted(statuses):
        titles = sorted(code for code, kind in KINDS.items() if kind.status == status and code not in GATEWAY_ONLY)
        known = responses.get(str(status), {}).get("description", "")
        description = known if known and known != "Validation Error" else f"Codes: {', '.join(titles)}"
        responses[str(status)] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }


def render() -> str:
    """The file's text."""
    from api.app import create_app
    from wedsync.kit.settings import Settings

    app = create_app(Settings(database_url="postgresql://localhost/none"))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file."""
    FILE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
