"""`/api/v1/webhook-subscriptions`: who receives which events, and how."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer
from wedsync.domain.errors import InvalidInput
from wedsync.domain.outbox.catalogue import API_VERSIONS, EVENT_TYPES, ApiVersion, json_schema
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Payload
from wedsync.http.deps import Context, MustBeOnce, respond
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.lookups import resolve
from wedsync.kit.ssrf import check_url
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.outbox import subscribe
from wedsync.usecases.outbox.read import list_operational_events, list_subscriptions, show_delivery
from wedsync.usecases.outbox.replay import DeliveryReplay, replay_many
from wedsync.usecases.outbox.send import ssrf_policy
from wedsync.usecases.outbox.subscribe import FilterValues, NewSubscription
from wedsync.usecases.outbox.views import (
    DeliveryView,
    OperationalEventPage,
    ReplayedDeliveries,
    SubscriptionPage,
    SubscriptionView,
    SubscriptionWithSecret,
    View,
    subscription_view,
)

router = APIRouter(tags=["webhook subscriptions"])
_PREFIX = "/webhook-subscriptions"
_ONE = _PREFIX + "/{subscription}"
_EXAMPLES: dict[str, Any] = {
    "payments": {
        "summary": "Everything about payments, in order, to a receiver on this machine",
        "value": {"url": "http://127.0.0.1:9000/wedsync", "event_types": ["payment.*"], "ordered": True},
    }
}


class SubscriptionChanges(BaseModel):
    """Changes to a subscription; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: Annotated[str, Field(min_length=8, max_length=2000)] | None = None
    description: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None
    event_types: (
        Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(min_length=1, max_length=50)] | None
    ) = None
    filters: Annotated[dict[str, FilterValues], Field(max_length=10)] | None = None
    api_version: ApiVersion | None = None
    payload: Payload | None = None
    ordered: StrictBool | None = None
    #: null takes the limit off.
    rate_per_second: Annotated[float | None, Field(ge=0.01, le=1000, strict=True)] = None
    retry_policy: DeliveryRetryPolicy | None = None

    def params(self) -> dict[str, Any]:
        """Return the fields that were set; raises InvalidInput for a null where none can be."""
        idempotency = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in idempotency.items():
            if value is None and name != "rate_per_second":
                raise InvalidInput(f"{name} can't be null", field=name)
        return idempotency


class SubscriptionSecretRotation(BaseModel):
    """Period for which the present secrets sign along with the new one: at most 7 days."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    overlap_seconds: Annotated[int, Field(ge=0, le=7 * 86_400, strict=True)] = 86_400


class EventTypeView(View):
    """One type of event, with the JSON Schema of the whole event."""

    name: str
    summary: str
    api_versions: tuple[str, ...]
    json_schema: dict[str, Any]


class EventTypes(View):
    """Catalogue of event types."""

    data: tuple[EventTypeView, ...]


def _keyring(context: Context) -> Keyring:
    return Keyring.parse(context.state.settings.codec_keys.get_secret_value())


async def _check_url(context: Context, url: str) -> None:
    resolver = getattr(context.state, "resolver", resolve)
    await check_url(url, ssrf_policy(context.state.settings), resolver, owner=context.organization_id)


def _once_shown(answer: Answer, secret: str | None, *, is_replay: bool) -> JSONResponse:
    """Build the answer with the secret, which the kept answer does not hold."""
    if not is_replay and isinstance(answer.body, dict):
        answer = answer.model_copy(update={"body": {**answer.body, "secret": secret}})
    return respond(answer, is_replay=is_replay)


def _kept(view: SubscriptionWithSecret) -> Answer:
    body = view.model_copy(update={"secret": None}).model_dump(mode="json")
    return Answer(status=201, headers={"Location": f"/api/v1{_PREFIX}/{view.id}"}, body=body)


@router.get("/event-types", summary="List the types of events")
async def list_event_types(context: Context) -> EventTypes:
    """List every type that can be subscribed to, with its JSON Schema."""
    return EventTypes(
        data=tuple(
            EventTypeView(
                name=entry.name, summary=entry.summary, api_versions=API_VERSIONS, json_schema=json_schema(entry)
            )
            for entry in EVENT_TYPES.values()
        )
    )


@router.post(_PREFIX, status_code=201, response_model=SubscriptionWithSecret, summary="Subscribe to events")
async def create_webhook_subscription(
    body: Annotated[NewSubscription, Body(openapi_examples=_EXAMPLES)], context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Subscribe a URL to events; the answer holds the signing secret, once."""
    await _check_url(context, body.url)
    made: list[SubscriptionWithSecret] = []

    async def action(conn: AsyncConnection) -> Answer:
        view = await subscribe.create(
            conn, context.principal, body, _keyring(context), subscription_id=context.new_id(idempotency), now=utc_now()
        )
        made.append(view)
        return _kept(view)

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return _once_shown(answer, made[0].secret if made else None, is_replay=is_replay)


@router.get(_PREFIX, summary="List subscriptions")
async def list_webhook_subscriptions(
    context: Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> SubscriptionPage:
    """List the organization's subscriptions, newest first."""
    async with context.db.tenant(context.organization_id) as conn:
        return await list_subscriptions(conn, context.organization_id, limit, cursor)


@router.get(_ONE, summary="Show a subscription")
async def get_webhook_subscription(subscription: str, context: Context) -> SubscriptionView:
    """Show the subscription with its health and counts; never its secrets."""
    async with context.db.tenant(context.organization_id) as conn:
        return subscription_view(await subscribe.row_of(conn, subscription))


@router.get(_ONE + "/news", summary="List what became of a subscription")
async def list_webhook_subscription_news(
    subscription: str,
    context: Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> OperationalEventPage:
    """List its warnings, its disabling, its return and its deliveries that were given up, newest first."""
    async with context.db.tenant(context.organization_id) as conn:
        return await list_operational_events(conn, subscription, limit, cursor)


@router.patch(_ONE, summary="Change a subscription")
async def update_webhook_subscription(
    subscription: str, body: SubscriptionChanges, context: Context
) -> SubscriptionView:
    """Change the given fields; waiting events are sent as the subscription then says."""
    changes = body.params()
    if body.url is not None:
        await _check_url(context, body.url)
    async with context.db.tenant(context.organization_id) as conn:
        return await subscribe.change(conn, context.principal, subscription, changes, utc_now())


@router.delete(_ONE, status_code=204, summary="Delete a subscription")
async def delete_webhook_subscription(subscription: str, context: Context) -> Response:
    """Delete the subscription: waiting deliveries are given up, and past deliveries can still be read."""
    async with context.db.tenant(context.organization_id) as conn:
        await subscribe.delete(conn, context.principal, subscription, utc_now())
    context.state.outbox_dispatcher.signal_subscriptions([subscription])
    return Response(status_code=204)


@router.post(_ONE + "/pause", summary="Pause a subscription")
async def pause_webhook_subscription(subscription: str, context: Context) -> SubscriptionView:
    """Park the subscription's events until it is resumed."""
    async with context.db.tenant(context.organization_id) as conn:
        view = await subscribe.pause(conn, context.principal, subscription, utc_now())
    context.state.outbox_dispatcher.signal_subscriptions([view.id])
    return view


@router.post(_ONE + "/resume", summary="Resume a subscription")
async def resume_webhook_subscription(subscription: str, context: Context) -> SubscriptionView:
    """Resume a paused or disabled subscription: send parked events in order, then go on; try a failing one at once."""
    async with context.db.tenant(context.organization_id) as conn:
        view = await subscribe.resume(conn, context.principal, subscription, utc_now())
    context.state.outbox_dispatcher.signal_subscriptions([view.id])
    return view


@router.post(
    _ONE + "/rotate-secret", status_code=201, response_model=SubscriptionWithSecret, summary="Rotate the signing secret"
)
async def rotate_webhook_subscription_secret(
    subscription: str, body: SubscriptionSecretRotation, context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Make a new secret, shown in this answer once; the present secrets sign along for the overlap."""
    made: list[SubscriptionWithSecret] = []
    overlap = timedelta(seconds=body.overlap_seconds)

    async def action(conn: AsyncConnection) -> Answer:
        view = await subscribe.rotate(
            conn, context.principal, subscription, _keyring(context), overlap=overlap, now=utc_now()
        )
        made.append(view)
        return _kept(view)

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return _once_shown(answer, made[0].secret if made else None, is_replay=is_replay)


@router.post(_ONE + "/test", status_code=202, response_model=DeliveryView, summary="Send a test")
async def test_webhook_subscription(subscription: str, context: Context, idempotency: MustBeOnce) -> JSONResponse:
    """Send the subscription a `webhook.test`; the answer is the delivery, whose result can be read later."""

    async def action(conn: AsyncConnection) -> Answer:
        delivery_id = await subscribe.test(conn, context.principal, subscription, utc_now())
        view = await show_delivery(conn, delivery_id)
        location = {"Location": f"/api/v1/deliveries/{view.id}"}
        return Answer(status=202, headers=location, body=view.model_dump(mode="json"))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)


@router.post(_ONE + "/replay", status_code=202, response_model=ReplayedDeliveries, summary="Send deliveries again")
async def replay_subscription_deliveries(
    subscription: str, body: DeliveryReplay, context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Send deliveries again, named or of a window, with the same `webhook-id`: at most 10,000, the oldest first."""

    async def action(conn: AsyncConnection) -> Answer:
        done = await replay_many(conn, context.principal, subscription, body, utc_now())
        return Answer(status=202, body=done.model_dump(mode="json"))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)
