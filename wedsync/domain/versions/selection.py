"""Choose which of a vendor's API versions a call speaks. Pure: pins and time are arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wedsync.domain.errors import VendorRejected
from wedsync.domain.value import Value
from wedsync.domain.vendors.manifest import VersionSpec

VersionStatus = Literal["active", "deprecated", "sunset"]

#: Names, beside `endpoint`, the version by which an effect was made.
FACT = "api_version"
#: The reasons of calls that we refused here, before anything was sent.
SUNSET, NOT_FOR_WEDDINGS = "version_sunset", "version_not_for_weddings"
#: A new pin holds from so much later on, so that every process knows it by then and a retry uses the same version.
NOTICE = timedelta(seconds=1)
#: A pin that ended is known for so long: longer than any vendor honours an idempotency key.
REMEMBERED = timedelta(days=3)
#: Of all weddings.
WHOLE = 100


class Pin(Value):
    """One service pinned to a version, for one organization or for all, from a moment on."""

    service: str
    #: None: for every organization without a pin of its own.
    organization_id: str | None = None
    version: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
    #: Percent of the weddings, by a draw that repeats; 100: all.
    share_percent: Annotated[int, Field(ge=1, le=100)] = WHOLE
    since: datetime
    until: datetime | None = None
    #: The migration that laid it over the existing pin; empty: an operator's own.
    migration_id: str = ""

    def holds(self, at: datetime, wedding_id: str) -> bool:
        """Tell whether it applies to the wedding's call first sent `at`."""
        if at < self.since or (self.until is not None and at >= self.until):
            return False
        return self.share_percent >= WHOLE or draw(self.migration_id or self.service, wedding_id) < self.share_percent


class Chosen(Value):
    """Version of one call."""

    #: As the vendor writes it; empty: the client's own.
    name: str
    #: What the client needs to select it; None: the version is unknown here, a mere label.
    spec: VersionSpec | None = None


#: Before it is known.
UNSPECIFIED = Chosen(name="")


def draw(salt: str, wedding_id: str) -> int:
    """Draw 0 to 99, the same for a wedding each time."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{wedding_id}".encode()).digest()[:8], "big") % WHOLE


def in_effect(
    pins: Iterable[Pin], organization_id: str | None, wedding_id: str, at: datetime
) -> tuple[str | None, str | None]:
    """Return the versions of the organization's own pin and of the service's pin, in this order; None: no such pin.

    A migration's pin comes before the pin beneath it, the newest first.
    """
    own: Pin | None = None
    common: Pin | None = None
    for pin in pins:
        if not pin.holds(at, wedding_id):
            continue
        if pin.organization_id is None:
            common = _newer(common, pin)
        elif pin.organization_id == organization_id:
            own = _newer(own, pin)
    return (own.version if own else None), (common.version if common else None)


def _newer(known: Pin | None, pin: Pin) -> Pin:
    return pin if known is None or _rank(pin) >= _rank(known) else known


def _rank(pin: Pin) -> tuple[bool, datetime]:
    return bool(pin.migration_id), pin.since


def resolve(
    specs: Mapping[str, VersionSpec],
    pins: Iterable[Pin],
    *,
    organization_id: str,
    wedding_id: str,
    at: datetime,
    endpoint_version: str,
    manifest_version: str,
    facts: Mapping[str, JsonValue] = {},
    requested: str = "",
    today: date | None = None,
) -> Chosen:
    """Choose the version of a call first sent `at`: requested by name > the step's own > tenant's pin > service's pin >
    endpoint's > manifest's.

    A step keeps the version of its first operation, as long as the vendor still answers it.
    Because `at` is the same for every attempt, a retry is sent as the first attempt was.
    """
    fallback = endpoint_version or manifest_version
    if requested:
        return Chosen(name=requested, spec=specs.get(requested))
    bound = facts.get(FACT)
    if facts and not isinstance(bound, str):
        # What was made by the manifest's version carries no mark.
        bound = fallback if fallback not in specs else manifest_version
    if isinstance(bound, str) and bound and not is_sunset(specs.get(bound), today or at.date()):
        return Chosen(name=bound, spec=specs.get(bound))
    own, common = in_effect(pins, organization_id, wedding_id, at)
    name = own or common or fallback
    return Chosen(name=name, spec=specs.get(name))


def marked(chosen: Chosen, manifest_version: str) -> bool:
    """Tell whether an effect must say by which version it was made."""
    return chosen.spec is not None and chosen.name != manifest_version


def is_sunset(spec: VersionSpec | None, today: date) -> bool:
    """Tell whether the vendor no longer answers the version; an operator may say that it does (`sunset_overridden`)."""
    if spec is None or spec.sunset_overridden:
        return False
    return spec.status == "sunset" or (spec.sunset_on is not None and today >= spec.sunset_on)


def status_of(spec: VersionSpec, today: date) -> VersionStatus:
    """Return the version's status on a day: its dates come before the status written of it."""
    if spec.status == "sunset" or (spec.sunset_on is not None and today >= spec.sunset_on):
        return "sunset"
    if spec.status == "deprecated" or (spec.deprecated_on is not None and today >= spec.deprecated_on):
        return "deprecated"
    return "active"


def days_left(spec: VersionSpec, today: date) -> int | None:
    """Return the days until the sunset; None: no date is set. Never below 0."""
    return None if spec.sunset_on is None else max((spec.sunset_on - today).days, 0)


def notice_of(service: str, spec: VersionSpec, today: date) -> str:
    """Say what people should know of the version; empty: nothing."""
    status, left = status_of(spec, today), days_left(spec, today)
    if status == "active":
        return ""
    guide = f"; see {spec.migration_guide}" if spec.migration_guide else ""
    if status == "sunset":
        kept = " (an operator says that it is still answered)" if spec.sunset_overridden else ""
        return f"{service} {spec.name} is past its sunset{kept}{guide}"
    when = f", {left} days are left" if left is not None else ""
    return f"{service} {spec.name} is deprecated{when}{guide}"


def refuse(service: str, chosen: Chosen, today: date) -> None:
    """Raise VendorRejected for a version that weddings may not use, or that its vendor no longer answers."""
    spec = chosen.spec
    if spec is None:
        return
    if not spec.wedding_compatible:
        raise VendorRejected(
            f"{service} {spec.name} is not for weddings; nothing was sent", vendor=service, reason=NOT_FOR_WEDDINGS
        )
    if is_sunset(spec, today):
        raise VendorRejected(
            f"{service} {spec.name} is past its sunset; nothing was sent", vendor=service, reason=SUNSET
        )
