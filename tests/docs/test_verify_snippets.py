"""The snippets that verify our signatures, run in the languages that are installed."""

from __future__ import annotations

import base64
import json
import runpy
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wedsync.domain.outbox.signing import headers_of

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "verify"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = '{"id":"evt_1","data":{"id":"é"}}'.encode()


def cases() -> list[tuple[dict[str, str], str, bool]]:
    """`(headers, body in base64, is valid)`."""
    now = datetime.now(UTC)

    def headers(secrets: list[str], at: datetime = now) -> dict[str, str]:
        return {name.lower(): value for name, value in headers_of("evt_1", "d1", BODY, secrets, at).items()}

    body = base64.b64encode(BODY).decode()
    return [
        (headers([SECRET]), body, True),
        (headers([OTHER, SECRET]), body, True),
        (headers([OTHER]), body, False),
        (headers([SECRET]), base64.b64encode(BODY + b" ").decode(), False),
        (headers([SECRET], now - timedelta(minutes=6)), body, False),
        ({**headers([SECRET]), "webhook-id": "evt_2"}, body, False),
    ]


def test_python() -> None:
    verify = runpy.run_path(str(FOLDER / "verify.py"))["verify"]
    for headers, body, is_valid in cases():
        assert verify(SECRET, headers, base64.b64decode(body)) is is_valid


_PROGRAMS = {
    "node": """import {{ verify }} from {file};
const cases = JSON.parse(process.argv[2]);
console.log(JSON.stringify(cases.map(([h, b]) => verify({secret}, h, Buffer.from(b, "base64")))));
""",
    "php": """<?php require {file};
$cases = json_decode($argv[1], true);
echo json_encode(array_map(fn($c) => verify({secret}, $c[0], base64_decode($c[1])), $cases));
""",
}
_FILES = {"node": ("verify.mjs", "run.mjs"), "php": ("verify.php", "run.php")}


@pytest.mark.parametrize("language", [name for name in _PROGRAMS if shutil.which(name)])
def test_another_language(language: str, tmp_path: Path) -> None:
    snippet, name = _FILES[language]
    program = tmp_path / name
    program.write_text(_PROGRAMS[language].format(file=json.dumps(str(FOLDER / snippet)), secret=json.dumps(SECRET)))
    said = json.dumps([[headers, body] for headers, body, _ in cases()])
    answer = subprocess.run([language, str(program), said], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(answer.stdout) == [is_valid for *_, is_valid in cases()]


def test_every_language_that_is_promised_has_its_snippet() -> None:
    text = (FOLDER.parent / "outgoing-webhooks.md").read_text()
    for name in ("verify.py", "verify.mjs", "verify.php", "Verify.cs"):
        assert f"verify/{name}" in text
        assert (FOLDER / name).is_file()
