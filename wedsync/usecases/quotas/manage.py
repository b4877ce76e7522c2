"""Change quotas by hand: limits, throttles, reservations, blocks; each is audited and in effect within a second."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.quotas import headers
from wedsync.domain.quotas import quota as rules
from wedsync.domain.quotas.quota import Counter, Quota, QuotaPolicy, Reservation, Throttle, WindowName
from wedsync.domain.quotas.reservations import MOST_KEPT_PART, most_kept, withheld
from wedsync.domain.value import Value
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.rate_limiter import Also
from wedsync.pipeline.routing_table import ANY_ACCOUNT
from wedsync.store.access import queries as access
from wedsync.store.quotas import queries as quotas
from wedsync.store.quotas.queries import Key

#: Nobody plans farther ahead.
_FARTHEST = timedelta(days=1098)


class WindowView(Value):
    """One window as it is now."""

    window: WindowName
    limit: int
    burst: int | None
    used: int
    remaining: int
    resets_at: datetime
    #: Reserved for weddings.
    reserved: int


class QuotaView(Value):
    """An account's quota."""

    service: str
    account: str
    windows: tuple[WindowView, ...]
    #: The vendor takes no call before; null: it does.
    blocked_until: datetime | None
    throttle: Throttle | None
    #: The organization's own reservations.
    reservations: tuple[Reservation, ...]
    #: Calls that other organizations' reservations have left.
    reserved_by_others: int
    #: How to get more calls: as an operator wrote it, else where the vendor says so.
    upgrade: str


def show_quota(
    controller: AdmissionController, key: Key, quota: Quota | None = None, weddings: Collection[str] = frozenset()
) -> QuotaView:
    """Return an account's quota as this process knows it (`quota`: as just read), for whoever has these weddings."""
    now, policy = controller.rate_limiter.now(), controller.routing_table.quota_policy(*key)
    known = quota or controller.routing_table.quota(*key)
    windows = []
    for one in policy.windows:
        counter: Counter = rules.opened(known, one, now)
        limit = rules.limit_of(one, counter)
        windows.append(
            WindowView(
                window=one.window,
                limit=limit,
                burst=one.at_once if one.window in rules.SPREAD else None,
                used=counter.used,
                remaining=max(limit - counter.used, 0),
                resets_at=counter.ends_at,
                reserved=withheld(known, counter, now),
            )
        )
    is_blocked = known.blocked_until is not None and known.blocked_until > now
    return QuotaView(
        service=key[0],
        account=key[1],
        windows=tuple(windows),
        blocked_until=known.blocked_until if is_blocked else None,
        throttle=known.throttle,
        reservations=tuple(one for one in known.reservations if one.wedding_id in weddings),
        reserved_by_others=sum(
            one.calls - one.used for one in known.reservations if one.wedding_id not in weddings and one.ends_at > now
        ),
        upgrade=policy.upgrade or controller.routing_table.quota_upgrade(key[0]),
    )


async def list_quotas(
    controller: AdmissionController, organization_id: str, service: str | None = None
) -> tuple[QuotaView, ...]:
    """List for an organization every account that has limits or has acquired calls, as the database has it now.

    Raises StoreUnavailable.
    """
    async with controller.breakers.db.system() as conn:
        rows = await quotas.read_all(conn)
    keys = sorted({*controller.routing_table.accounts(), *(key for key in rows if key[1] != ANY_ACCOUNT)})
    wanted_keys = [key for key in keys if service is None or key[0] == service]
    named = {one.wedding_id for key in wanted_keys if key in rows for one in rows[key].reservations}
    weddings = await _ours(controller, organization_id, named)
    return tuple(show_quota(controller, key, rows.get(key), weddings) for key in wanted_keys)


async def _ours(controller: AdmissionController, organization_id: str, weddings: Collection[str]) -> Collection[str]:
    """Return those of the weddings that are the organization's."""
    if not weddings:
        return frozenset()
    async with controller.breakers.db.tenant(organization_id) as conn:
        return frozenset(await quotas.read_ceremonies(conn, sorted(weddings)))


class QuotaManager:
    """Changes quotas in one person's name. Raises StoreUnavailable."""

    def __init__(self, controller: AdmissionController, principal: Principal, now: datetime) -> None:
        self._controller = controller
        self._principal = principal
        self._now = now

    async def set_limits(self, key: Key, policy: QuotaPolicy) -> None:
        """Set an account's limits from now on; account `*`: those of every one without its own. Raises NotFound.

        Forgets what the vendor's answers said of the limits before.
        """
        self._known(key)
        async with self._controller.breakers.db.system() as conn:
            await quotas.put_policy(conn, key, policy, self._principal.actor, self._now)
            await self._audit(conn, "quota.limited", key, policy)
        await self._controller.routing_table.load()
        for one in self._controller.routing_table.governed(key):
            await self._controller.rate_limiter.change(one, headers.forgotten)

    async def throttle(self, key: Key, throttle: Throttle | None) -> Quota:
        """Give ordinary calls a share of each limit, or all of it again (None). Raises NotFound, InvalidInput."""
        self._one_account(key)
        if throttle is not None and throttle.until is not None and throttle.until - self._now > _FARTHEST:
            raise InvalidInput(f"a throttle ends within {_FARTHEST.days} days, or has no end", field="until")

        async def also(conn: AsyncConnection) -> None:
            await self._audit(conn, "quota.throttled" if throttle else "quota.unthrottled", key, throttle)

        return await self._change(key, lambda quota: quota.model_copy(update={"throttle": throttle}), also)

    async def unblock(self, key: Key) -> Quota:
        """Let calls go out before the moment that the vendor named; its next 429 blocks again.

        Raises NotFound, InvalidInput.
        """
        self._one_account(key)
        now = self._controller.rate_limiter.now()

        async def also(conn: AsyncConnection) -> None:
            await self._audit(conn, "quota.unblocked", key, None)

        return await self._change(key, lambda quota: headers.lifted(quota, now), also)

    async def reserve(self, key: Key, wanted: Reservation) -> Reservation:
        """Reserve calls for a wedding of the organization.

        The same id again is the same reservation. Raises NotFound, InvalidInput, Conflict(reason="quota_full") when
        more than 80 % of a window would be reserved.
        """
        self._one_account(key)
        policy = self._controller.routing_table.quota_policy(*key)
        if not policy.windows:
            raise Conflict(f"{key[0]} has no limits that anything could be reserved of", reason="no_limits")
        if wanted.ends_at <= self._now:
            raise InvalidInput("a reservation ends in the future", field="ends_at")
        for field in ("starts_at", "ends_at"):
            if abs(getattr(wanted, field) - self._now) > _FARTHEST:
                raise InvalidInput(f"a reservation's time is within {_FARTHEST.days} days from now", field=field)
        if not await self._is_ours(wanted.wedding_id):
            raise NotFound(f"no wedding {wanted.wedding_id!r}")

        def change(quota: Quota) -> Quota:
            kept = tuple(one for one in quota.reservations if one.id != wanted.id and one.ends_at > self._now)
            changed = quota.model_copy(update={"reservations": (*kept, wanted)})
            _refuse_too_much(changed, policy, wanted)
            return changed

        async def also(conn: AsyncConnection) -> None:
            await self._audit(conn, "quota.reserved", key, wanted)

        await self._change(key, change, also)
        return wanted

    async def release(self, key: Key, reservation_id: str) -> None:
        """Give a reservation back. Raises NotFound, InvalidInput."""
        self._one_account(key)
        found = next((one for one in (await self._read(key)).reservations if one.id == reservation_id), None)
        if found is None or not await self._is_ours(found.wedding_id):
            raise NotFound(f"no reservation {reservation_id!r}")

        def change(quota: Quota) -> Quota:
            return quota.model_copy(
                update={"reservations": tuple(one for one in quota.reservations if one.id != reservation_id)}
            )

        async def also(conn: AsyncConnection) -> None:
            await self._audit(conn, "quota.released", key, found)

        await self._change(key, change, also)

    async def _is_ours(self, wedding_id: str) -> bool:
        return bool(await _ours(self._controller, self._principal.organization_id, [wedding_id]))

    async def _read(self, key: Key) -> Quota:
        async with self._controller.breakers.db.system() as conn:
            return (await quotas.read_all(conn)).get(key) or Quota(service=key[0], account=key[1])

    async def _change(self, key: Key, change: Callable[[Quota], Quota], also: Also) -> Quota:
        changed = await self._controller.rate_limiter.change(key, change, also)
        await self._controller.routing_table.load()
        return changed

    async def _audit(self, conn: AsyncConnection, action: str, key: Key, detail: Value | None) -> None:
        audited = {"account": key[1], **(detail.model_dump(mode="json") if detail is not None else {})}
        await access.audit(conn, self._principal, action, f"quota/{key[0]}", audited, self._now)

    def _one_account(self, key: Key) -> None:
        self._known(key)
        if key[1] == ANY_ACCOUNT:
            raise InvalidInput("only limits are set for all accounts: name the one that is meant", field="account")

    def _known(self, key: Key) -> None:
        if key[0] not in self._controller.routing_table.services():
            raise NotFound(f"there is no service {key[0]!r}")


def _refuse_too_much(quota: Quota, policy: QuotaPolicy, wanted: Reservation) -> None:
    for one in policy.windows:
        start, kept = most_kept(quota, one, wanted)
        room = one.limit * MOST_KEPT_PART
        if kept > room:
            since = f"{start:%Y-%m-%d %H:%M} UTC"
            detail = f"{kept:.10g} calls would be kept of {quota.service}'s {one.window} from {since}"
            advice = f"{room:.10g} may be: reserve fewer, or for a longer time"
            raise Conflict(f"{detail}; {advice}", reason="quota_full")
