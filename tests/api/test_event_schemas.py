from __future__ import annotations

import json

from api.event_schemas import FOLDER, render


def test_the_files_of_the_catalogue_are_up_to_date() -> None:
    written = {str(file.relative_to(FOLDER)): file.read_text() for file in FOLDER.rglob("*.*")}
    assert written == render(), "run `make openapi`"


def test_every_file_is_a_json_schema() -> None:
    import jsonschema

    for path, content in render().items():
        if path.endswith(".json"):
            jsonschema.Draft202012Validator.check_schema(json.loads(content))
