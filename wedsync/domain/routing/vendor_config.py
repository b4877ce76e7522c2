"""Configuration of a service, and the defaults that its vendor's manifest gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.endpoint_selection import Endpoint, Strategy, require_address
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.value import Value
from wedsync.domain.vendors.manifest import GatewayPolicy, Manifest

Dependency = Literal["critical", "important", "optional"]

#: Capabilities whose vendors can replace one another. A booking concerns one business only.
INTERCHANGEABLE = frozenset({"payments", "sms", "email", "calendar", "storage", "video", "weather", "chat"})
_DEPENDENCY: dict[str, Dependency] = {"payments": "critical", "booking": "critical", "weather": "optional"}
_ORDER: tuple[Dependency, ...] = ("critical", "important", "optional")
#: Seconds between probes of a service that no wedding needs now, and of one that matters.
INTERVAL_SECONDS = 60.0
CRITICAL_INTERVAL_SECONDS = 10.0


class HealthCheck(Value):
    """Settings of a service's probe."""

    #: http: requests `url`. oauth: fetches a token by client credentials, and requests `url` with it. database:
    #: `SELECT 1`. custom: `probe` of the vendor's own `probe.py`.
    kind: Literal["http", "oauth", "database", "custom"] = "http"
    #: Path at the endpoint, or a full URL.
    url: Annotated[str, Field(max_length=500, pattern=r"^(/|https?://)[\x21-\x7e]*$")] = "/"
    #: Statuses that mean healthy; empty: anything but a 5xx, since a refusal is an answer too.
    expected_statuses: tuple[Annotated[int, Field(ge=100, le=599)], ...] = ()
    interval_seconds: Annotated[float, Field(ge=1, le=3600)] = INTERVAL_SECONDS
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    #: For `oauth`: the token endpoint, as a path at the endpoint or a full URL, and the requested scope.
    token_url: Annotated[str, Field(max_length=500, pattern=r"^((/|https://)[\x21-\x7e]*)?$")] = ""
    scope: Annotated[str, Field(max_length=500, pattern=r"^[\x20-\x7e]*$")] = ""
    #: For `database`: one of those in `WEDSYNC_PROBE_DATABASES`; empty: our own store.
    database: Annotated[str, Field(max_length=63, pattern=r"^([a-z][a-z0-9_]*)?$")] = ""

    @model_validator(mode="after")
    def _complete(self) -> HealthCheck:
        if (self.kind == "oauth") != bool(self.token_url):
            raise ValueError("a health check of kind oauth, and no other, has a token_url")
        for url in (self.url, self.token_url):
            if url and not url.startswith("/"):
                require_address(url)
        return self

    def accepts(self, status: int) -> bool:
        """Tell whether this status means healthy."""
        return status in self.expected_statuses if self.expected_statuses else status < 500


class ServiceConfig(Value):
    """One service: a vendor as calls are routed to it."""

    service: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    #: What it can replace others for.
    capabilities: tuple[str, ...] = ()
    strategy: Strategy = "failover"
    #: The impact of its outage on weddings.
    dependency: Dependency = "important"
    #: Services that can take over, in order; empty: it is never cut off.
    backups: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1, max_length=20)] = (Endpoint(),)
    health: HealthCheck = HealthCheck()
    circuit: CircuitPolicy = CircuitPolicy()
    failover: FailoverPolicy = FailoverPolicy()
    #: What partners may send to it.
    gateway: GatewayPolicy = GatewayPolicy()

    @model_validator(mode="after")
    def _distinct(self) -> ServiceConfig:
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) != len(names):
            raise ValueError("two endpoints have one name")
        if self.service in self.backups or len(set(self.backups)) != len(self.backups):
            raise ValueError("backups are other services, each once")
        return self


def available_backups(
    config: ServiceConfig, cut_off: Collection[tuple[str, str]], others: Mapping[str, ServiceConfig]
) -> tuple[str, ...]:
    """Return the backups that could take over now, in order: those with an endpoint that is not cut off.

    `cut_off` holds (service, endpoint) pairs. `others` holds the configurations of the services that can be called; one
    that nobody has set up is not among them.
    """
    return tuple(
        backup
        for backup in config.backups
        if backup in others and any((backup, e.name) not in cut_off for e in others[backup].endpoints)
    )


def watched_every_seconds(config: ServiceConfig, *, is_near: bool) -> float:
    """Return the seconds between a service's probes: few when weddings can't do without it, or one of its is near."""
    seconds = config.health.interval_seconds
    return min(seconds, CRITICAL_INTERVAL_SECONDS) if is_near or config.dependency == "critical" else seconds


def is_last(
    config: ServiceConfig, endpoint: str, cut_off: Collection[tuple[str, str]], others: Mapping[str, ServiceConfig]
) -> bool:
    """Tell whether nobody else could take the endpoint's calls: no endpoint, no backup. See `available_backups`."""
    if any(
        e.name != endpoint and not e.dedicated and (config.service, e.name) not in cut_off for e in config.endpoints
    ):
        return False
    return not available_backups(config, cut_off, others)


def default_config(manifest: Manifest, manifests: Mapping[str, Manifest]) -> ServiceConfig:
    """Return the configuration of a vendor until an operator sets another."""
    shared = INTERCHANGEABLE.intersection(manifest.capabilities)
    backups = tuple(
        name
        for name, other in sorted(manifests.items())
        if name != manifest.name and other.has_api and shared.intersection(other.capabilities)
    )
    found = [_DEPENDENCY.get(capability, "important") for capability in manifest.capabilities]
    dependency: Dependency = min(found, key=_ORDER.index, default="optional")
    interval = CRITICAL_INTERVAL_SECONDS if dependency == "critical" else INTERVAL_SECONDS
    slow = max(manifest.timeout_seconds * 0.75, 0.1)
    return ServiceConfig(
        service=manifest.name,
        capabilities=manifest.capabilities,
        dependency=dependency,
        backups=backups,
        endpoints=(Endpoint(version=manifest.api_version),),
        health=HealthCheck(
            url=manifest.health_path,
            interval_seconds=interval,
            timeout_seconds=min(manifest.timeout_seconds, 5.0),
        ),
        circuit=CircuitPolicy(slow_seconds=slow),
        gateway=manifest.gateway,
    )
