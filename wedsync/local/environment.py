"""Decides which parts of the stack run here, on which ports, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from urllib.parse import urlsplit

from temporalio.envconfig import ClientConfigProfile

from wedsync.domain.errors import Conflict, InvalidInput
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import DEFAULT_ADDRESS, DEFAULT_NAMESPACE
from wedsync.local.ports import HOST, PortRegistry, is_free
from wedsync.local.state import StateDir
from wedsync.local.temporal_server import NAMESPACE

POSTGRES, TEMPORAL, SANDBOX, WORKER, API = "postgres", "temporal", "sandbox", "worker", "api"
PARTS = (POSTGRES, TEMPORAL, SANDBOX, WORKER, API)
#: Where a Temporal server is chosen by the user; a profile in the home folder alone does not count.
_TEMPORAL_CHOICES = ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE")
_LOCAL_ACCOUNT = {
    "API_KEY": "local-api-key",
    "ACCOUNT_ID": "local-account",
    "CLIENT_ID": "local-client",
    "CLIENT_SECRET": "local-client-secret",
}
#: Who may send mail there: an address, which no other vendor's account id has to be.
_LOCAL_SENDERS = {"sendgrid": {"ACCOUNT_ID": "weddings@example.com"}}


@dataclass(frozen=True)
class Layout:
    """Parts that run here and where they listen."""

    parts: frozenset[str]
    api_port: int
    sandbox_port: int
    postgres_port: int
    temporal_port: int
    temporal_ui_port: int
    #: As users and vendors reach the API.
    api_url: str

    @property
    def sandbox_url(self) -> str:
        """Return the stand-ins' server; empty when it does not run here."""
        return f"http://{HOST}:{self.sandbox_port}" if SANDBOX in self.parts else ""

    @property
    def local_api_url(self) -> str:
        """Return the API's address on this machine."""
        return f"http://{HOST}:{self.api_port}"


def plan_layout(settings: Settings, only: Set[str] | None = None) -> Layout:
    """Choose the parts and their ports (remembered in the state folder).

    Raises Conflict when a port asked for by setting is taken, InvalidInput for an unknown part.
    """
    parts = _parts(settings, only)
    registry = PortRegistry(StateDir(settings.state_dir).path / "ports.json")
    api_port = _port(settings, "api_port", registry)
    return Layout(
        parts=parts,
        api_port=api_port,
        sandbox_port=_port(settings, "sandbox_port", registry),
        postgres_port=registry.acquire("postgres"),
        temporal_port=registry.acquire("temporal", 7233),
        temporal_ui_port=registry.acquire("temporal_ui", 8233),
        api_url=_api_url(settings, api_port),
    )


def _parts(settings: Settings, only: Set[str] | None) -> frozenset[str]:
    unknown = (only or set()) - set(PARTS)
    if unknown:
        raise InvalidInput(f"the stack has no part {', '.join(sorted(unknown))}", field="only")
    parts = set(PARTS if only is None else only)
    if settings.database_url:
        parts.discard(POSTGRES)
    if any(os.environ.get(name) for name in _TEMPORAL_CHOICES):
        parts.discard(TEMPORAL)
    if not settings.is_local:
        parts.discard(SANDBOX)
    return frozenset(parts)


def _port(settings: Settings, name: str, registry: PortRegistry) -> int:
    wanted: int = getattr(settings, name)
    requested = name in settings.model_fields_set and wanted != 0
    if not requested:
        return registry.acquire(name.removesuffix("_port"), wanted)
    if not is_free(wanted):
        raise Conflict(
            f"port {wanted} is taken: set WEDSYNC_{name.upper()} to another, or to 0 for any", reason="port_taken"
        )
    return wanted


def _api_url(settings: Settings, api_port: int) -> str:
    parts = urlsplit(settings.api_url)
    # A loopback URL with another port speaks of another stack, to which the command line was pointed.
    is_other = parts.hostname in (HOST, "localhost", "::1") and parts.port != api_port
    is_ours = "api_url" in settings.model_fields_set and not is_other
    return settings.api_url if is_ours else f"http://{HOST}:{api_port}"


def program_environment(
    settings: Settings, layout: Layout, *, database_url: str, owner_url: str, vendors: Mapping[str, object]
) -> dict[str, str]:
    """Build the environment of sandbox, worker and API: the user's own, completed.

    What the user set wins, except for what this stack decides: its folder, its ports and where its servers are.
    """
    environment = {"PYTHONUNBUFFERED": "1", **_vendor_defaults(layout, vendors), **os.environ}
    environment |= {
        "WEDSYNC_STATE_DIR": str(StateDir(settings.state_dir).path),
        "WEDSYNC_API_PORT": str(layout.api_port),
        "WEDSYNC_API_URL": layout.api_url,
        "WEDSYNC_SANDBOX_PORT": str(layout.sandbox_port),
        "WEDSYNC_DATABASE_URL": database_url,
        "WEDSYNC_DATABASE_OWNER_URL": owner_url,
    }
    if TEMPORAL in layout.parts:
        ui_url = f"http://{HOST}:{layout.temporal_ui_port}"
        for name in [name for name in environment if name.startswith("TEMPORAL_")]:
            del environment[name]
        environment |= {
            # The user's own profile is for other servers: its key and TLS must not meet this one.
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "TEMPORAL_ADDRESS": f"{HOST}:{layout.temporal_port}",
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "WEDSYNC_TEMPORAL_UI_URL": ui_url,
        }
        environment["WEDSYNC_CODEC_ORIGINS"] = ",".join(
            filter(None, (settings.codec_origins, ui_url, f"http://localhost:{layout.temporal_ui_port}"))
        )
    return environment


def _vendor_defaults(layout: Layout, vendors: Mapping[str, object]) -> dict[str, str]:
    if SANDBOX not in layout.parts:
        return {}
    found = {}
    for name in vendors:
        prefix = f"WEDSYNC_VENDORS__{name.upper()}__"
        found[f"{prefix}BASE_URL"] = f"{layout.sandbox_url}/{name}"
        found |= {prefix + field: value for field, value in (_LOCAL_ACCOUNT | _LOCAL_SENDERS.get(name, {})).items()}
    return found


def temporal_location(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return `(address, namespace)` that programs with this environment connect to."""
    profile = ClientConfigProfile.load(override_env_vars=dict(environment))
    return profile.address or DEFAULT_ADDRESS, profile.namespace or DEFAULT_NAMESPACE
