"""The snippets of `docs/webhooks.md` sign what we verify, in every language that this machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wedsync.domain.inbox.source import HmacOptions
from wedsync.kit.signatures.hmac_sha256 import verify

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"
SNIPPETS = dict(
    re.findall(r"```(python|javascript|php|csharp)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
)
_PROGRAMS = {
    "python": (sys.executable, ".py"),
    "javascript": (shutil.which("node"), ".js"),
    "php": (shutil.which("php"), ".php"),
}
HERE = sorted(name for name, (program, _) in _PROGRAMS.items() if program)


def test_four_languages_are_shown_and_python_is_always_run() -> None:
    assert sorted(SNIPPETS) == ["csharp", "javascript", "php", "python"]
    assert "python" in HERE


@pytest.mark.parametrize("language", HERE)
def test_a_snippets_signature_is_taken_and_bound_to_time_body_and_secret(language: str, tmp_path: Path) -> None:
    program, ending = _PROGRAMS[language]
    assert program is not None
    file = tmp_path / f"snippet{ending}"
    file.write_text(SNIPPETS[language], encoding="utf-8")
    stamp, body = str(int(time.time())), '{"place": "Zürich", "rain": true}'
    done = subprocess.run([program, str(file), "s3cret", stamp, body], capture_output=True, text=True, check=True)
    options = HmacOptions(header="X-Weather-Signature", timestamp_header="X-Weather-Time")
    headers = {"X-Weather-Signature": done.stdout.strip(), "X-Weather-Time": stamp}
    now = datetime.now(UTC)
    assert verify(body.encode(), headers, ["s3cret"], now, options)
    assert not verify(body.encode() + b" ", headers, ["s3cret"], now, options)
    assert not verify(body.encode(), headers, ["other"], now, options)
    assert not verify(body.encode(), {**headers, "X-Weather-Time": str(int(stamp) - 1)}, ["s3cret"], now, options)
