"""Writes the OpenAPI file: `python -m api.openapi` writes `api/openapi.json`."""

from __future__ import annotations

import json
from pathlib import Path

from api.app import create_app
from wedsync.kit.settings import Settings

FILE = Path(__file__).with_name("openapi.json")


def render() -> str:
    """Return the file's text, which no environment variable changes."""
    api_url = Settings.model_fields["api_url"].default
    app = create_app(Settings(database_url="postgresql://localhost/none", api_url=api_url))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file."""
    FILE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
