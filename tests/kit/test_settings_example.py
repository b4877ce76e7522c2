"""`.env.example` speaks of every setting and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from wedsync.kit.settings import Settings, VendorSettings

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / ".env.example").read_text().splitlines()
GIVEN = dict(line.split("=", 1) for line in LINES if line and not line.startswith("#"))


def test_every_setting_is_listed_once_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {f"WEDSYNC_{name.upper()}" for name in Settings.model_fields if name != "vendors"}
    vendor = {f"WEDSYNC_VENDORS__STRIPE__{name.upper()}" for name in VendorSettings.model_fields}
    assert set(GIVEN) == plain | vendor
    assert len(GIVEN) == len([line for line in LINES if line and not line.startswith("#")])
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    given, default = Settings().model_dump(), Settings.model_construct().model_dump()
    assert given.pop("vendors") == {"stripe": VendorSettings().model_dump()}
    default.pop("vendors")
    assert given == default


def test_every_setting_has_a_comment_above_its_group() -> None:
    commented = False
    for line in LINES:
        if line.startswith("#"):
            commented = True
        elif not line:
            commented = False
        else:
            assert commented, line
