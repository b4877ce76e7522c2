"""`temporal-compose.yml`: everything it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wedsync.local.temporal_server import DYNAMIC_CONFIG
from wedsync.store.db.session import APP_ROLE
from wedsync.vendors.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "temporal-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
_OWNER = "WEDSYNC_DATABASE_OWNER_URL"
_KEYS = {"services", "networks", "volumes", "configs", "secrets"}
_SERVICE_KEYS = {
    "image",
    "build",
    "restart",
    "networks",
    "network_mode",
    "depends_on",
    "environment",
    "env_file",
    "volumes",
    "ports",
    "command",
    "entrypoint",
    "healthcheck",
    "profiles",
    "stop_grace_period",
}


def _default(text: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_only_keys_of_the_compose_specification_are_used() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} <= _KEYS
    for name, service in SERVICES.items():
        assert set(service) <= _SERVICE_KEYS, name
        assert "image" in service, name


def test_every_variable_has_a_default() -> None:
    assert re.findall(r"\$\{\w+\}|\$\{\w+:\?|(?<!\$)\$\w+", TEXT) == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_exists(name: str) -> None:
    service = SERVICES[name]
    for other, how in _dependencies(service).items():
        assert other in SERVICES
        assert how != "service_healthy" or "healthcheck" in SERVICES[other]
        # A service that always runs must not wait for one that a profile switches off.
        assert "profiles" in service or "profiles" not in SERVICES[other]
    assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
    shared = service.get("network_mode", "")
    assert not shared or shared.removeprefix("service:") in SERVICES
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    for file in service.get("env_file", []):
        assert (ROOT / _default(file)).is_file()


def _dependencies(service: dict[str, Any]) -> dict[str, str]:
    found = service.get("depends_on", {})
    if isinstance(found, list):
        return dict.fromkeys(found, "service_started")
    return {other: entry["condition"] for other, entry in found.items()}


def test_no_circle_of_dependencies() -> None:
    done: set[str] = set()
    while len(done) < len(SERVICES):
        ready = {name for name, one in SERVICES.items() if name not in done and set(_dependencies(one)) <= done}
        assert ready, f"a circle among {set(SERVICES) - done}"
        done |= ready


def test_published_ports_are_on_the_loopback_and_differ() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def _login(url: str) -> str:
    return url.removeprefix("postgresql://").partition(":")[0]


def test_only_the_migrations_log_in_as_the_tables_owner() -> None:
    environments = {name: service.get("environment", {}) for name, service in SERVICES.items()}
    owner = environments["wedsync-postgres"]["POSTGRES_USER"]
    programs = {name: found for name, found in environments.items() if "WEDSYNC_DATABASE_URL" in found}
    assert {"migrate", "api", "worker", "worker-critical"} <= set(programs)
    assert {_login(found["WEDSYNC_DATABASE_URL"]) for found in programs.values()} == {APP_ROLE}
    owners = {name: found[_OWNER] for name, found in programs.items() if _OWNER in found}
    assert {name: _login(url) for name, url in owners.items()} == {"migrate": owner}
    assert owner != APP_ROLE


def test_both_temporal_servers_run_with_the_same_dynamic_configuration() -> None:
    file = yaml.safe_load((ROOT / "docker" / "temporal-dynamic-config.yaml").read_text())
    assert {key: values[0]["value"] for key, values in file.items()} == {
        key: yaml.safe_load(value) for key, value in DYNAMIC_CONFIG.items()
    }
    assert SERVICES["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"] == "config/dynamicconfig/wedsync.yaml"


def test_the_sandbox_profile_points_every_vendor_at_its_stand_in() -> None:
    lines = (ROOT / "docker" / "sandbox.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    bases = {key: value for key, value in found.items() if key.endswith("__BASE_URL")}
    assert set(bases.values()) >= {
        f"http://sandbox:8091/{name}" for name, manifest in load_registry().manifests.items() if manifest.has_api
    }


def test_the_image_is_built_from_the_lock_and_drops_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    syncs = re.findall(r"uv sync (.*)", dockerfile)
    assert syncs
    assert all("--frozen" in options for options in syncs)
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.M) for word in line.split()[:-1]}
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^USER (.*)$", dockerfile, re.M) == ["wedsync"]
