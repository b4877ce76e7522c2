"""What the pages say of the house is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/architecture.md")
#: Paths within a page: in backticks, from the root of the checkout, to a file or a folder of ours.
PATHS = re.compile(r"`((?:wedsync|workflows|activities|workers|api|migrations|tests|bench|docs|examples)/[\w./-]*)`")
LINKS = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    written = (ROOT / page).read_text(encoding="utf-8")
    named = [path for path in PATHS.findall(written) if not (ROOT / path).exists()]
    linked = [path for path in LINKS.findall(written) if not ((ROOT / page).parent / path).exists()]
    assert (named, linked) == ([], [])


def test_every_floor_stands_in_the_picture_of_the_floors() -> None:
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = contracts.partition("layers = [")[2].partition("]")[0]
    floors = {name.strip("()") for name in re.findall(r"[\w.()]+", layers)} - {"wedsync.__main__", "wedsync.web"}
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert {name for name in floors if f"`{name.replace('.', '/')}" not in page} == set()
