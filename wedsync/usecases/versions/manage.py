"""Let operators and tenants add, change and pin versions by hand, and show them the versions."""

from __future__ import annotations

from datetime import date, datetime

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, InvalidInput, NotFound, VendorRejected
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions import selection as rules
from wedsync.domain.versions.selection import Chosen, Pin, VersionStatus
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.store.versions import queries as versions
from wedsync.usecases.routing.read import RoutingView


class VersionView(RoutingView):
    """One version of a vendor's API."""

    name: str
    #: Its state by its dates today.
    status: VersionStatus
    deprecated_on: date | None
    sunset_on: date | None
    sunset_overridden: bool
    #: None: no sunset is set.
    days_left: int | None
    wedding_compatible: bool
    backward_compatible: bool
    migration_guide: str
    #: What people should know of it; empty: nothing.
    notice: str
    #: Whether calls use it where nothing is pinned.
    is_default: bool


class PinView(RoutingView):
    """A pin that is in effect."""

    #: None: of every organization without a pin of its own.
    organization_id: str | None
    version: str
    share_percent: int
    since: datetime
    #: What laid it over the pin in effect; empty: an operator or a tenant.
    migration_id: str


class VersionsView(RoutingView):
    """A vendor's versions and pins."""

    service: str
    data: tuple[VersionView, ...]
    pins: tuple[PinView, ...]


class UsageView(RoutingView):
    """Calls by one version of one vendor in a range."""

    service: str
    version: str
    calls: int
    failed: int
    weddings: int
    first_at: datetime
    last_at: datetime
    notice: str


class Usage(RoutingView):
    """Calls by version, the most used first within each vendor."""

    since: datetime
    until: datetime
    data: tuple[UsageView, ...]


class VersionManager:
    """Changes versions and pins in one person's name. Raises StoreUnavailable."""

    def __init__(self, db: Database, routing_table: RoutingTable, principal: Principal, now: datetime) -> None:
        self._db = db
        self._routing_table = routing_table
        self._principal = principal
        self._now = now

    async def put(self, service: str, spec: VersionSpec) -> VersionView:
        """Add a version or change one, audited and in effect in every process within a second. Raises NotFound."""
        known(self._routing_table, service)
        async with self._db.system() as conn:
            await versions.put_spec(conn, service, spec, self._principal.actor, self._now)
            detail = spec.model_dump(mode="json")
            subject = f"service/{service}/version/{spec.name}"
            await access.audit(conn, self._principal, "version.put", subject, detail, self._now)
        await self._routing_table.load()
        return show_version(self._routing_table, service, spec, self._now)

    async def pin(self, service: str, organization_id: str | None, version: str | None) -> VersionsView:
        """Pin a vendor for one organization or for all; None removes the pin.

        What was begun stays with its version. Raises NotFound, InvalidInput(reason="unknown_version"),
        Conflict(reason="version_not_for_weddings" or "version_sunset").
        """
        known(self._routing_table, service)
        if version is not None:
            require_usable(self._routing_table, service, version, self._now)
        async with self._db.system() as conn:
            await versions.require_organization(conn, organization_id)
            await versions.pin(conn, service, organization_id, version, self._principal.actor, self._now)
            detail = {"organization_id": organization_id, "version": version}
            await access.audit(conn, self._principal, "version.pinned", f"service/{service}/version", detail, self._now)
        await self._routing_table.load()
        return show_versions(self._routing_table, service, self._principal.organization_id, self._now)


def known(routing_table: RoutingTable, service: str) -> None:
    """Raise NotFound for a vendor that gets no calls."""
    if service not in routing_table.services():
        raise NotFound(f"there is no service {service!r}")


def require_usable(routing_table: RoutingTable, service: str, version: str, now: datetime) -> VersionSpec:
    """Return the version, if weddings may be pinned to it; raises as `VersionManager.pin`."""
    spec = routing_table.versions(service).get(version)
    if spec is None:
        raise InvalidInput(f"{service} has no version {version!r}", field="version", reason="unknown_version")
    try:
        rules.refuse(service, Chosen(name=version, spec=spec), now.date())
    except VendorRejected as error:
        raise Conflict(error.detail.removesuffix("; nothing was sent"), reason=error.reason) from None
    return spec


def default_version(routing_table: RoutingTable, service: str, now: datetime) -> str:
    """Return the name that calls are recorded by without a tenant's own pin: a version, or an endpoint's label."""
    whole = (pin for pin in routing_table.pins(service) if pin.share_percent == rules.WHOLE)
    _, common = rules.in_effect(whole, None, "", now)
    return common or routing_table.config(service).endpoints[0].version or routing_table.manifest_version(service)


def spoken(routing_table: RoutingTable, service: str, name: str) -> str:
    """Return the version of calls recorded by `name`: the manifest's where it is only a label."""
    return name if name in routing_table.versions(service) else routing_table.manifest_version(service)


def show_version(routing_table: RoutingTable, service: str, spec: VersionSpec, now: datetime) -> VersionView:
    """Return a version as it is today."""
    return VersionView(
        **spec.model_dump(exclude={"status", "header", "path"}),
        status=rules.status_of(spec, now.date()),
        days_left=rules.days_left(spec, now.date()),
        notice=rules.notice_of(service, spec, now.date()),
        is_default=spec.name == spoken(routing_table, service, default_version(routing_table, service, now)),
    )


def show_versions(
    routing_table: RoutingTable, service: str, organization_id: str | None, now: datetime
) -> VersionsView:
    """List a vendor's versions, newest name first, and the pins that concern the organization; None: all pins."""
    known(routing_table, service)

    def concerns(pin: Pin) -> bool:
        mine = organization_id is None or pin.organization_id in (None, organization_id)
        return mine and (pin.until is None or pin.until > now)

    specs = sorted(routing_table.versions(service).values(), key=lambda spec: spec.name, reverse=True)
    return VersionsView(
        service=service,
        data=tuple(show_version(routing_table, service, spec, now) for spec in specs),
        pins=tuple(
            PinView(**pin.model_dump(exclude={"service", "until"}))
            for pin in routing_table.pins(service)
            if concerns(pin)
        ),
    )


async def read_usage(
    db: Database,
    routing_table: RoutingTable,
    organization_id: str | None,
    service: str | None,
    since: datetime,
    until: datetime,
) -> Usage:
    """Count calls by version in a range, of one organization or, with None, of all. Raises StoreUnavailable."""
    async with db.system() if organization_id is None else db.tenant(organization_id) as conn:
        rows = await versions.usage(conn, service, since, until)

    def notice(row_service: str, version: str) -> str:
        spec = routing_table.versions(row_service).get(version) if row_service in routing_table.services() else None
        return rules.notice_of(row_service, spec, until.date()) if spec is not None else ""

    data = tuple(UsageView(**row._mapping, notice=notice(row.service, row.version)) for row in rows)
    return Usage(since=since, until=until, data=data)
