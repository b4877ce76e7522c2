"""Find the vendors by their `manifest.toml` and give access to their code.

A vendor is a package `wedsync.vendors.<name>` with a manifest; its client, webhook and stand-in modules are imported
at their first use.
"""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Protocol, cast

from pydantic import ValidationError

from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.plans.actions import ACTIONS, CAPABILITIES
from wedsync.domain.vendors.manifest import ActionSpec, Manifest, OperationSpec
from wedsync.kit.settings import Settings
from wedsync.kit.vendor import ParseWebhook, ProbeVendor, VendorClient, VerifyWebhook

MANIFEST = "manifest.toml"
_PACKAGE = "wedsync.vendors"


class WebhookModule(Protocol):
    """Reads one vendor's webhooks: its `webhook.py`."""

    verify: VerifyWebhook
    parse: ParseWebhook


class Registry:
    """Holds the installed vendors, by name."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self.manifests: dict[str, Manifest] = dict(manifests)

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of vendor `name`; raises NotFound."""
        found = self.manifests.get(name)
        if found is None:
            raise NotFound(f"there is no vendor {name!r}")
        return found

    def client_class(self, name: str) -> type[VendorClient]:
        """Return the class of vendor `name`'s client; raises NotFound for an unknown vendor."""
        self.manifest(name)
        module = importlib.import_module(f"{_PACKAGE}.{name}.client")
        return cast("type[VendorClient]", module.Client)

    def webhook(self, name: str) -> WebhookModule | None:
        """Return the module that verifies and parses vendor `name`'s webhooks; None: it sends none or is unknown."""
        if name not in self.manifests or importlib.util.find_spec(f"{_PACKAGE}.{name}.webhook") is None:
            return None
        return cast("WebhookModule", importlib.import_module(f"{_PACKAGE}.{name}.webhook"))


def vendor_probe(name: str) -> ProbeVendor | None:
    """Return the vendor's own health probe; None when it has none."""
    if importlib.util.find_spec(f"{_PACKAGE}.{name}") is None:
        return None
    if importlib.util.find_spec(f"{_PACKAGE}.{name}.probe") is None:
        return None
    return cast("ProbeVendor", importlib.import_module(f"{_PACKAGE}.{name}.probe").probe)


def read_manifest(text: str, where: str, folder: str) -> Manifest:
    """Read the manifest in TOML `text`.

    Raises InvalidInput whose detail names `where` and the field: not TOML, wrong shape, a name other than the folder's,
    an action that the catalogue has not, an operation named twice in a list, versions without the one that is pinned.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{where}: not TOML: {error}", field=where) from None
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {field}: {first['msg']}", field=field) from None
    for field, fault in _faults(manifest, folder):
        raise InvalidInput(f"{where}: {field}: {fault}", field=field)
    return manifest


def _faults(manifest: Manifest, folder: str) -> Iterable[tuple[str, str]]:
    if manifest.name != folder:
        yield "name", f"{manifest.name!r} stands in the folder {folder!r}"
    for index, capability in enumerate(manifest.capabilities):
        if capability not in CAPABILITIES:
            yield f"capabilities.{index}", f"{capability!r} is not in the catalogue"
    names = [version.name for version in manifest.versions]
    if len(set(names)) != len(names) or (names and manifest.api_version not in names):
        yield "versions", "each is named once, `api_version` among them"
    for index, action in enumerate(manifest.actions):
        yield from _action_faults(action, f"actions.{index}", manifest)


def _action_faults(action: ActionSpec, field: str, manifest: Manifest) -> Iterable[tuple[str, str]]:
    known = ACTIONS.get(action.name)
    if known is None:
        yield f"{field}.name", f"{action.name!r} is not in the catalogue"
    elif known.capability not in manifest.capabilities:
        yield f"{field}.name", f"{known.capability!r} is not among the capabilities"
    if not action.operations and not action.manual:
        yield f"{field}.operations", "an action needs an operation, or by_hand = true"
    # A compensation is the same operation again, so only a second mention within one list is a mistake.
    for kind in ("operations", "undo_operations", "change_operations"):
        names = [spec.name for spec in getattr(action, kind)]
        for name in names:
            if names.count(name) > 1:
                yield f"{field}.{kind}", f"{name!r} is named twice"
    specs: dict[str, OperationSpec] = {}
    for spec in (*action.operations, *action.undo_operations, *action.change_operations):
        if specs.setdefault(spec.name, spec) != spec:
            yield f"{field}.operations", f"{spec.name!r} is declared in two ways"


def read_registry(root: Traversable) -> Registry:
    """Read the vendors in folder `root`; raises InvalidInput naming the bad manifest and its field."""
    manifests = {}
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        file = folder / MANIFEST
        if folder.is_dir() and file.is_file():
            text = file.read_text(encoding="utf-8")
            manifests[folder.name] = read_manifest(text, f"{folder.name}/{MANIFEST}", folder.name)
    return Registry(manifests)


def limited_vendors(settings: Settings, manifests: Mapping[str, Manifest]) -> frozenset[str]:
    """List the vendors whose manifests' quotas apply: those called at their own addresses, not at a stand-in's."""
    return frozenset(
        name for name, manifest in manifests.items() if manifest.quotas and not settings.vendor(name).base_url
    )


def is_set_up(settings: Settings, vendor: str) -> bool:
    """Tell whether somebody has given the platform an account at the vendor, or an address."""
    configured = settings.vendor(vendor)
    return bool(configured.base_url or configured.api_key.get_secret_value() or configured.client_id)


def set_up_vendors(settings: Settings, manifests: Mapping[str, Manifest]) -> frozenset[str]:
    """List the vendors that can be called: those that are set up, and those whose addresses stand in plans."""
    return frozenset(name for name, manifest in manifests.items() if manifest.endpoints or is_set_up(settings, name))


@cache
def load_registry() -> Registry:
    """Return the registry of the installed vendors, read once per process."""
    return read_registry(resources.files(_PACKAGE))
