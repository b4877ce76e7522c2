"""Choose the endpoint of a service that takes a call. Pure: counters and measurements are arguments."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from wedsync.domain.value import Value

Strategy = Literal["round_robin", "weighted", "least_loaded", "geographic", "failover"]

#: Places of regions, (latitude, longitude), by the names that clouds have in common.
REGIONS: dict[str, tuple[float, float]] = {
    "us-east": (38.9, -77.4),
    "us-central": (41.3, -95.9),
    "us-west": (45.6, -121.2),
    "ca-central": (45.5, -73.6),
    "sa-east": (-23.5, -46.6),
    "eu-west": (53.3, -6.3),
    "eu-central": (50.1, 8.7),
    "eu-south": (45.5, 9.2),
    "eu-north": (59.3, 18.1),
    "me-central": (25.3, 55.3),
    "af-south": (-33.9, 18.4),
    "ap-south": (19.1, 72.9),
    "ap-southeast": (1.4, 103.8),
    "ap-northeast": (35.7, 139.7),
    "au-east": (-33.9, 151.2),
}
_EARTH_KILOMETERS = 6371.0


def require_address(url: str) -> None:
    """Raise ValueError for a URL that no request can be sent to, because of its host or its port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            IPv6Address(host)
    except ValueError:
        host, port = "", None
    if port == 0 or not re.fullmatch(r"[0-9a-z._:-]{1,253}", host) or ".." in host:
        raise ValueError("it must be a URL such as https://api.example.com:8443/v1")


class Endpoint(Value):
    """One address of a service: a base URL in a region, at a version."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"
    #: Empty: the address of the account that is bound.
    base_url: Annotated[str, Field(max_length=500, pattern=r"^(https?://[\x21\x22\x24-\x3e\x40-\x7e]+)?$")] = ""
    #: Of the vendor's API, as the vendor writes it.
    version: Annotated[str, Field(max_length=64, pattern=r"^[\x20-\x7e]*$")] = ""
    #: One of REGIONS, or empty.
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]*$")] = ""
    weight: Annotated[int, Field(ge=0, le=10_000)] = 100
    #: Most calls in flight; 0: no limit.
    capacity: Annotated[int, Field(ge=0, le=100_000)] = 0
    #: Kept for weddings in wedding-day mode.
    dedicated: bool = False

    @model_validator(mode="after")
    def _can_be_reached(self) -> Endpoint:
        if self.base_url:
            require_address(self.base_url)
        return self


class Load(Value):
    """State of an endpoint at this moment, as far as it is known."""

    in_flight: int = 0
    #: Smoothed; 0: not measured yet.
    latency_ms: float = 0.0
    is_cut_off: bool = False


def home(endpoints: Sequence[Endpoint], lives_at: str | None) -> Endpoint | None:
    """Return the endpoint that now reaches what was made at the endpoint `lives_at`; None: its endpoint was removed.

    Without a name it was made before there was a choice. No name, like the endpoint called `default`, stands for the
    account's own address.
    """
    for endpoint in endpoints:
        if endpoint.name == lives_at:
            return endpoint
    own = next((endpoint for endpoint in endpoints if not endpoint.base_url), None)
    if lives_at is None:
        return own or endpoints[0]
    return (own or Endpoint()) if lives_at == Endpoint().name else None


def choose(
    strategy: Strategy,
    endpoints: Sequence[Endpoint],
    loads: Sequence[Load],
    *,
    turn: int = 0,
    key: str = "",
    venue: tuple[float, float] | None = None,
    is_wedding_day: bool = False,
) -> Endpoint:
    """Choose the endpoint for one call; `endpoints` is not empty, and `loads` is parallel to it, in failover order.

    `turn` counts calls (round robin); `key` makes a weighted draw that repeats. Dedicated endpoints are for wedding-day
    calls, which take no other while one of theirs is usable. If all are at capacity, one that is not cut off still
    takes the call; if all are cut off the first does, so that its circuit refuses.
    """
    fit = _fitting(list(zip(endpoints, loads, strict=True)), is_wedding_day)
    match strategy:
        case "round_robin":
            return fit[turn % len(fit)][0]
        case "weighted":
            return _weighted([endpoint for endpoint, _ in fit], f"{key}:{turn}")
        case "least_loaded":
            return min(fit, key=lambda pair: (1 + pair[1].in_flight) * max(pair[1].latency_ms, 1.0))[0]
        case "geographic":
            return min(fit, key=lambda pair: _kilometers(pair[0].region, venue))[0]
        case "failover":
            return fit[0][0]


def _fitting(pairs: list[tuple[Endpoint, Load]], is_wedding_day: bool) -> list[tuple[Endpoint, Load]]:
    def has_room(pair: tuple[Endpoint, Load]) -> bool:
        return not pair[0].capacity or pair[1].in_flight < pair[0].capacity

    ordinary = [pair for pair in pairs if not pair[0].dedicated]
    own = [pair for pair in pairs if pair[0].dedicated] if is_wedding_day else []
    available = [[pair for pair in group if not pair[1].is_cut_off] for group in (own, ordinary)]
    with_room = [list(filter(has_room, group)) for group in available]
    return next(filter(None, (*with_room, *available)), (own or ordinary or pairs)[:1])


def _weighted(endpoints: Sequence[Endpoint], seed: str) -> Endpoint:
    whole = sum(endpoint.weight for endpoint in endpoints)
    if not whole:
        return endpoints[0]
    draw = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % whole
    for endpoint in endpoints:
        draw -= endpoint.weight
        if draw < 0:
            return endpoint
    raise AssertionError("unreachable")


def _kilometers(region: str, venue: tuple[float, float] | None) -> float:
    """Return the great-circle distance; an unknown place is farther than any."""
    if venue is None or region not in REGIONS:
        return math.inf
    (lat1, lon1), (lat2, lon2) = REGIONS[region], venue
    a, b = math.radians(lat1), math.radians(lat2)
    half = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_KILOMETERS * math.asin(math.sqrt(min(half, 1.0)))
