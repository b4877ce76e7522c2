"""Describes the application as an OpenAPI document that client generators read without a warning."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from wedsync.domain.plans.plan import Plan
from wedsync.http.middleware import PROTECTED
from wedsync.http.problems import GATEWAY_ONLY, KINDS, MEDIA_TYPE, Problem

_REF = "#/components/schemas/{model}"
#: Beside what an endpoint says itself, every guarded one may answer these.
_PROTECTED = (401, 413, 503)
#: What a schema has beside a default, and a mapping of properties has not.
_SCHEMA_KEYS = {"type", "$ref", "anyOf"}


def operation_id(route: APIRoute) -> str:
    """Return the route's name, which is its function's: a verb and a noun that no other route has."""
    return route.name


def describe(app: FastAPI) -> None:
    """Make the app describe itself with problem details for every refusal."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, servers=app.servers
    )
    schemas = document["components"]["schemas"]
    _, extra = models_json_schema([(Plan, "validation"), (Problem, "serialization")], ref_template=_REF)
    schemas.update(extra["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"]["properties"]["code"]["enum"] = sorted(KINDS)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _add_refusals(operation, path, method)
    _simplify(schemas)
    return document


def _simplify(node: Any) -> None:
    """Rewrite, throughout a schema, what client generators warn of or drop."""
    if isinstance(node, dict):
        _move_composite_default(node)
        _name_key_pattern(node)
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _simplify(item)


def _move_composite_default(schema: dict[str, Any]) -> None:
    """Move a default that is a list or an object to the description: no language has a literal for all of them.

    Beside a `$ref`, drop the default: the schema that is named has the same defaults.
    """
    if not isinstance(schema.get("default"), list | dict) or schema.keys().isdisjoint(_SCHEMA_KEYS):
        return
    default = schema.pop("default")
    if default and "$ref" not in schema:
        words = (schema.get("description", ""), f"Default: `{json.dumps(default)}`.")
        schema["description"] = " ".join(filter(None, words))


def _name_key_pattern(schema: dict[str, Any]) -> None:
    """State by `propertyNames` which keys a mapping has: generators take `patternProperties` for no type at all."""
    if len(schema.get("patternProperties", ())) == 1:
        ((pattern, values),) = schema.pop("patternProperties").items()
        schema["additionalProperties"] = values
        schema["propertyNames"] = {**schema.get("propertyNames", {}), "pattern": pattern}


def _add_refusals(operation: dict[str, Any], path: str, method: str) -> None:
    responses = operation["responses"]
    statuses = {int(status) for status in responses if status.isdecimal() and int(status) >= 400}
    if path.startswith("/api/v1/vendor-links/"):
        statuses.update((404, 410, 503))
        if method == "post":
            statuses.update((400, 409, 413, 422))
    elif path.startswith(PROTECTED):
        statuses.update(_PROTECTED)
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
