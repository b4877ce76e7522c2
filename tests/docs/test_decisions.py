from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("0*.md"))
HEAD = re.compile(r"# (\d{4}): (.+)\n\nStatus: (.+)\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_has_a_status_a_context_and_consequences_and_stands_in_the_index(page: Path) -> None:
    written = page.read_text(encoding="utf-8")
    head = HEAD.match(written)
    assert head
    assert re.findall("^## (.+)$", written, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    line = f"| [{head[1]}]({page.name}) | {head[2]} | {head[3]} |"
    assert line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
