"""Manifests are found, read strictly, and lead to the vendors' code."""

from __future__ import annotations

from pathlib import Path

import pytest

from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.plans.actions import ACTIONS
from wedsync.vendors.registry import load_registry, read_manifest, read_registry

GOOD = """
name = "acme"
title = "Acme"
capabilities = ["payments"]
documentation_url = "https://acme.test"
base_url = "https://api.acme.test"
[auth]
kind = "bearer"
[[actions]]
name = "payments.collect"
undo = "exact"
[[actions.operations]]
name = "take"
"""


def test_the_installed_vendors_are_found_by_their_manifests() -> None:
    registry = load_registry()
    assert {"stripe", "paypal"} <= set(registry.manifests)
    assert load_registry() is registry
    for name, manifest in registry.manifests.items():
        assert manifest.name == name
        assert all(action.name in ACTIONS for action in manifest.actions)


def test_code_is_found_beside_the_manifest() -> None:
    registry = load_registry()
    assert registry.client_class("stripe").__module__ == "wedsync.vendors.stripe.client"
    module = registry.webhook("stripe")
    assert module is not None
    assert callable(module.verify)
    assert callable(module.parse)


def test_every_vendor_with_an_api_has_a_client_and_its_whole_interface() -> None:
    registry = load_registry()
    for name, manifest in registry.manifests.items():
        if not manifest.has_api:
            assert all(action.manual for action in manifest.actions), name
            continue
        client = registry.client_class(name)
        assert all(callable(getattr(client, method)) for method in ("send", "find", "inspect")), name


def test_an_unknown_vendor_has_no_code() -> None:
    registry = load_registry()
    assert registry.webhook("nobody") is None
    with pytest.raises(NotFound):
        registry.manifest("nobody")
    with pytest.raises(NotFound):
        registry.client_class("nobody")


def test_a_folder_without_a_manifest_is_no_vendor(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "manifest.toml").write_text(GOOD)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__init__.py").write_text("")
    assert list(read_registry(tmp_path).manifests) == ["acme"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("[auth]", "[auth"), "acme/manifest.toml"),
        (('title = "Acme"', ""), "title"),
        (('title = "Acme"', 'title = "Acme"\nmood = "good"'), "mood"),
        (('kind = "bearer"', 'kind = "blood"'), "auth.kind"),
        (('name = "acme"', 'name = "other"'), "name"),
        (('["payments"]', '["payments", "magic"]'), "capabilities.1"),
        (("[auth]", '[[versions]]\nname = "9"\n[auth]'), "versions"),
        (('["payments"]', '["sms"]'), "actions.0.name"),
        (('"payments.collect"', '"payments.steal"'), "actions.0.name"),
        (('[[actions.operations]]\nname = "take"', ""), "actions.0.operations"),
        (
            ('name = "take"', 'name = "take"\n[[actions.operations]]\nname = "take"'),
            "actions.0.operations",
        ),
    ],
)
def test_a_bad_manifest_is_refused_by_file_and_field(change: tuple[str, str], field: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(InvalidInput) as caught:
        read_manifest(text, "acme/manifest.toml", "acme")
    assert caught.value.field == field
    assert "acme/manifest.toml" in caught.value.detail
