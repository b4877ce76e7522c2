"""`/api/v1/quotas`: how much vendors let us call, what is reserved, and what is to be expected."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.v1.routing import OPERATORS_ONLY, ServiceName
from wedsync.domain.access.principal import Answer, Permission
from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.quotas.quota import SPREAD, QuotaPolicy, Reservation, Throttle, WindowLimit
from wedsync.domain.quotas.schedule import Schedule, ScheduleRequest
from wedsync.http.deps import Context, MustBeOnce, RequestContext, respond
from wedsync.kit.clock import utc_now
from wedsync.store.quotas.queries import Key
from wedsync.usecases.access.answer_once import answer_repeatable
from wedsync.usecases.quotas import manage as views
from wedsync.usecases.quotas.forecast import Forecast, forecast_quotas, preview_schedule
from wedsync.usecases.quotas.manage import QuotaManager

router = APIRouter(tags=["quotas"], prefix="/quotas")
Account = Annotated[str, Query(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9*_.-]+$")]

_Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


class _QuotaBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PutLimits(_QuotaBody):
    """Limits of an account within each window; a window that is left out has no limit."""

    windows: tuple[WindowLimit, ...]
    upgrade: _Text = ""


class PutThrottle(_QuotaBody):
    """Share of each limit that ordinary calls get; calls of a wedding's day and reserved ones get all."""

    percent: Annotated[int, Field(ge=0, le=99)]
    until: AwareDatetime | None = None
    reason: _Text = ""


class PostReservation(_QuotaBody):
    """A reservation of calls for a wedding."""

    wedding_id: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00]+$")]
    calls: Annotated[int, Field(ge=1, le=1_000_000)]
    starts_at: AwareDatetime
    ends_at: AwareDatetime


class PostSchedule(_QuotaBody):
    """Requests to plan."""

    requests: Annotated[tuple[ScheduleRequest, ...], Field(min_length=1, max_length=200)]


class Quotas(BaseModel):
    """Every quota."""

    data: tuple[views.QuotaView, ...]


def _manager(context: RequestContext) -> QuotaManager:
    return QuotaManager(context.state.admission_controller, context.principal, utc_now())


def _operators(context: RequestContext) -> QuotaManager:
    context.require(Permission.OPERATE_PLATFORM)
    return _manager(context)


async def _one(context: RequestContext, key: Key) -> views.QuotaView:
    if key[0] not in context.state.admission_controller.routing_table.services():
        raise NotFound(f"there is no service {key[0]!r}")
    found = await views.list_quotas(context.state.admission_controller, context.organization_id, key[0])
    return next(
        (one for one in found if one.account == key[1]), views.show_quota(context.state.admission_controller, key)
    )


@router.get("", summary="List quotas")
async def list_quotas(context: Context) -> Quotas:
    """List every account that has limits or has taken calls: what is used, what is left, when it resets."""
    return Quotas(data=await views.list_quotas(context.state.admission_controller, context.organization_id))


@router.get("/forecast", summary="Forecast what plans will want")
async def get_quota_forecast(
    context: Context, days: Annotated[int, Query(ge=1, le=366, description="How far ahead.")] = 28
) -> Forecast:
    """Hold what the running plans will call against each window, and show weeks ahead where quota falls short."""
    now = utc_now()
    return await forecast_quotas(context.state.admission_controller, context.manifests, now, now + timedelta(days=days))


@router.post("/schedule", summary="Preview a schedule")
async def preview_call_schedule(body: PostSchedule, context: Context) -> Schedule:
    """Compute when these requests could be made across services, beside what running plans want. Nothing is taken."""
    return await preview_schedule(
        context.state.admission_controller, context.manifests, context.organization_id, body.requests, utc_now()
    )


@router.get("/{service}", summary="Show a quota")
async def get_quota(service: ServiceName, context: Context, account: Account = "default") -> views.QuotaView:
    """Show one account's quota."""
    return await _one(context, (service, account))


@router.put("/{service}", responses=OPERATORS_ONLY, summary="Set an account's limits")
async def set_quota_limits(
    service: ServiceName, body: PutLimits, context: Context, account: Account = "default"
) -> views.QuotaView:
    """Replace the limits; live in every process within a second, and audited. Account `*`: all without their own."""
    for place, one in enumerate(body.windows):
        if one.burst is not None and one.burst > one.most_at_once and one.window in SPREAD:
            detail = f"of {one.limit} calls a {one.window} at most {one.most_at_once} may come at once"
            raise InvalidInput(detail, field=f"windows[{place}].burst")
    try:
        policy = QuotaPolicy(windows=body.windows, upgrade=body.upgrade)
    except ValueError:
        raise InvalidInput("a window is limited once", field="windows") from None
    await _operators(context).set_limits((service, account), policy)
    return await _one(context, (service, account))


@router.put("/{service}/throttle", responses=OPERATORS_ONLY, summary="Throttle an account")
async def throttle_quota(
    service: ServiceName, body: PutThrottle, context: Context, account: Account = "default"
) -> views.QuotaView:
    """Give ordinary calls only a share of the limits, say during an incident; weddings on their day keep all."""
    throttle = Throttle(percent=body.percent, until=body.until, reason=body.reason)
    await _operators(context).throttle((service, account), throttle)
    return await _one(context, (service, account))


@router.delete("/{service}/throttle", responses=OPERATORS_ONLY, summary="End a throttle")
async def end_quota_throttle(service: ServiceName, context: Context, account: Account = "default") -> views.QuotaView:
    """Let ordinary calls have all of their limits again."""
    await _operators(context).throttle((service, account), None)
    return await _one(context, (service, account))


@router.delete("/{service}/block", responses=OPERATORS_ONLY, summary="Lift a vendor's block")
async def lift_quota_block(service: ServiceName, context: Context, account: Account = "default") -> views.QuotaView:
    """Let calls go out again before the moment that the vendor named (`blocked_until`); its next 429 holds again."""
    await _operators(context).unblock((service, account))
    return await _one(context, (service, account))


@router.post(
    "/{service}/reservations", status_code=201, response_model=Reservation, summary="Reserve calls for a wedding"
)
async def reserve_quota(
    service: ServiceName, body: PostReservation, context: Context, idempotency: MustBeOnce, account: Account = "default"
) -> JSONResponse:
    """Keep calls for one wedding: others borrow them while it needs none; they are given back when its time is over."""
    if body.ends_at <= body.starts_at:
        raise InvalidInput("a reservation ends after it starts", field="ends_at")
    wanted = Reservation(id=context.new_id(idempotency), **body.model_dump())

    async def action() -> Answer:
        # Its id is the key's own: done twice it is one.
        kept = await _manager(context).reserve((service, account), wanted)
        return Answer(status=201, headers={}, body=kept.model_dump(mode="json"))

    answer, is_replay = await answer_repeatable(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)


@router.delete("/{service}/reservations/{reservation_id}", status_code=204, summary="Give a reservation back")
async def release_quota_reservation(
    service: ServiceName,
    reservation_id: Annotated[str, Path(min_length=1, max_length=63)],
    context: Context,
    account: Account = "default",
) -> Response:
    """Release the reservation; its calls are everybody's again."""
    await _manager(context).release((service, account), reservation_id)
    return Response(status_code=204)
