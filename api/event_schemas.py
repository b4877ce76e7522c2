"""Writes the catalogue of events as files: `python -m api.event_schemas` fills `docs/events/`."""

from __future__ import annotations

import json
from pathlib import Path

from wedsync.domain.outbox.catalogue import API_VERSIONS, EVENT_TYPES, json_schema

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "events"


def render() -> dict[str, str]:
    """Return every file's text by its path under `docs/events`."""
    lines = [
        "# Events",
        "",
        "What subscriptions are told ([how](../outgoing-webhooks.md)). Within a version fields are only added.",
        "",
    ]
    found: dict[str, str] = {}
    for version in API_VERSIONS:
        lines += [f"## {version}", "", "| type | told when |", "|---|---|"]
        for entry in EVENT_TYPES.values():
            path = f"{version}/{entry.name}.json"
            found[path] = json.dumps(json_schema(entry), indent=1) + "\n"
            lines.append(f"| [`{entry.name}`]({path}) | {entry.summary} |")
        lines.append("")
    return {**found, "README.md": "\n".join(lines)}


def main() -> None:
    """Write the files."""
    for path, content in render().items():
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
