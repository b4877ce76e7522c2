"""`/api/v1/webhook-subscriptions`: who receives which events, and how."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.ext.asyncio import AsyncConnection

from api.deps import MustBeOnce, OnDesk, respond
from wedsync.domain.access.principal import Answer
from wedsync.domain.errors import InvalidInput
from wedsync.domain.webhooks.outgoing.catalogue import API_VERSIONS, EVENT_TYPES, ApiVersion, json_schema
from wedsync.domain.webhooks.outgoing.schedule import DeliveryRetryPolicy
from wedsync.domain.webhooks.outgoing.signing import Payload
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.lookups import resolve
from wedsync.kit.ssrf import check_url
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.webhooks.outgoing import subscribe
from wedsync.usecases.webhooks.outgoing.read import list_news, list_subscriptions, show_delivery
from wedsync.usecases.webhooks.outgoing.replay import DeliveryReplay, replay_many
from wedsync.usecases.webhooks.outgoing.send import guard_policy
from wedsync.usecases.webhooks.outgoing.subscribe import FilterValues, NewSubscription
from wedsync.usecases.webhooks.outgoing.views import (
    DeliveryView,
    NewsPage,
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

    def given(self) -> dict[str, Any]:
        """Return the fields that were set; raises InvalidInput for a null where none can be."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in said.items():
            if value is None and name != "rate_per_second":
                raise InvalidInput(f"{name} can't be null", field=name)
        return said


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


def _keyring(desk: OnDesk) -> Keyring:
    return Keyring.parse(desk.state.settings.codec_keys.get_secret_value())


async def _check_url(desk: OnDesk, url: str) -> None:
    resolver = getattr(desk.state, "resolver", resolve)
    await check_url(url, guard_policy(desk.state.settings), resolver, owner=desk.organization_id)


def _once_shown(answer: Answer, secret: str | None, *, is_replay: bool) -> JSONResponse:
    """Build the answer with the secret, which the kept answer does not hold."""
    if not is_replay and isinstance(answer.body, dict):
        answer = answer.model_copy(update={"body": {**answer.body, "secret": secret}})
    return respond(answer, is_replay=is_replay)


def _kept(view: SubscriptionWithSecret) -> Answer:
    body = view.model_copy(update={"secret": None}).model_dump(mode="json")
    return Answer(status=201, headers={"Location": f"/api/v1{_PREFIX}/{view.id}"}, body=body)


@router.get("/event-types", summary="List the types of events")
async def list_event_types(desk: OnDesk) -> EventTypes:
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
    body: Annotated[NewSubscription, Body(openapi_examples=_EXAMPLES)], desk: OnDesk, said: MustBeOnce
) -> JSONResponse:
    """Subscribe a URL to events; the answer holds the signing secret, once."""
    await _check_url(desk, body.url)
    made: list[SubscriptionWithSecret] = []

    async def deed(conn: AsyncConnection) -> Answer:
        view = await subscribe.create(
            conn, desk.principal, body, _keyring(desk), subscription_id=desk.new_id(said), now=utc_now()
        )
        made.append(view)
        return _kept(view)

    answer, is_replay = await answer_once(desk.db, desk.organization_id, said, deed)
    return _once_shown(answer, made[0].secret if made else None, is_replay=is_replay)


@router.get(_PREFIX, summary="List subscriptions")
async def list_webhook_subscriptions(
    desk: OnDesk,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> SubscriptionPage:
    """List the organization's subscriptions, newest first."""
    async with desk.db.tenant(desk.organization_id) as conn:
        return await list_subscriptions(conn, desk.organization_id, limit, cursor)


@router.get(_ONE, summary="Show a subscription")
async def get_webhook_subscription(subscription: str, desk: OnDesk) -> SubscriptionView:
    """Show the subscription with its health and counts; never its secrets."""
    async with desk.db.tenant(desk.organization_id) as conn:
        return subscription_view(await subscribe.row_of(conn, subscription))


@router.get(_ONE + "/news", summary="List what became of a subscription")
async def list_webhook_subscription_news(
    subscription: str,
    desk: OnDesk,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> NewsPage:
    """List its warnings, its disabling, its return and its deliveries that were given up, newest first."""
    async with desk.db.tenant(desk.organization_id) as conn:
        return await list_news(conn, subscription, limit, cursor)


@router.patch(_ONE, summary="Change a subscription")
async def update_webhook_subscription(subscription: str, body: SubscriptionChanges, desk: OnDesk) -> SubscriptionView:
    """Change the given fields; waiting events are sent as the subscription then says."""
    changes = body.given()
    if body.url is not None:
        await _check_url(desk, body.url)
    async with desk.db.tenant(desk.organization_id) as conn:
        return await subscribe.change(conn, desk.principal, subscription, changes, utc_now())


@router.delete(_ONE, status_code=204, summary="Delete a subscription")
async def delete_webhook_subscription(subscription: str, desk: OnDesk) -> Response:
    """Delete the subscription: waiting deliveries are given up, and past deliveries can still be read."""
    async with desk.db.tenant(desk.organization_id) as conn:
        await subscribe.delete(conn, desk.principal, subscription, utc_now())
    desk.state.outbox_teller.tell_endpoints([subscription])
    return Response(status_code=204)


@router.post(_ONE + "/pause", summary="Pause a subscription")
async def pause_webhook_subscription(subscription: str, desk: OnDesk) -> SubscriptionView:
    """Park the subscription's events until it is resumed."""
    async with desk.db.tenant(desk.organization_id) as conn:
        view = await subscribe.pause(conn, desk.principal, subscription, utc_now())
    desk.state.outbox_teller.tell_endpoints([view.id])
    return view


@router.post(_ONE + "/resume", summary="Resume a subscription")
async def resume_webhook_subscription(subscription: str, desk: OnDesk) -> SubscriptionView:
    """Resume a paused or disabled subscription: send parked events in order, then go on; try a failing one at once."""
    async with desk.db.tenant(desk.organization_id) as conn:
        view = await subscribe.resume(conn, desk.principal, subscription, utc_now())
    desk.state.outbox_teller.tell_endpoints([view.id])
    return view


@router.post(
    _ONE + "/rotate-secret", status_code=201, response_model=SubscriptionWithSecret, summary="Rotate the signing secret"
)
async def rotate_webhook_subscription_secret(
    subscription: str, body: SubscriptionSecretRotation, desk: OnDesk, said: MustBeOnce
) -> JSONResponse:
    """Make a new secret, shown in this answer once; the present secrets sign along for the overlap."""
    made: list[SubscriptionWithSecret] = []
    overlap = timedelta(seconds=body.overlap_seconds)

    async def deed(conn: AsyncConnection) -> Answer:
        view = await subscribe.rotate(
            conn, desk.principal, subscription, _keyring(desk), overlap=overlap, now=utc_now()
        )
        made.append(view)
        return _kept(view)

    answer, is_replay = await answer_once(desk.db, desk.organization_id, said, deed)
    return _once_shown(answer, made[0].secret if made else None, is_replay=is_replay)


@router.post(_ONE + "/test", status_code=202, response_model=DeliveryView, summary="Send a test")
async def test_webhook_subscription(subscription: str, desk: OnDesk, said: MustBeOnce) -> JSONResponse:
    """Send the subscription a `webhook.test`; the answer is the delivery, whose result can be read later."""

    async def deed(conn: AsyncConnection) -> Answer:
        delivery_id = await subscribe.test(conn, desk.principal, subscription, utc_now())
        view = await show_delivery(conn, delivery_id)
        location = {"Location": f"/api/v1/deliveries/{view.id}"}
        return Answer(status=202, headers=location, body=view.model_dump(mode="json"))

    answer, is_replay = await answer_once(desk.db, desk.organization_id, said, deed)
    return respond(answer, is_replay=is_replay)


@router.post(_ONE + "/replay", status_code=202, response_model=ReplayedDeliveries, summary="Send deliveries again")
async def replay_subscription_deliveries(
    subscription: str, body: DeliveryReplay, desk: OnDesk, said: MustBeOnce
) -> JSONResponse:
    """Send deliveries again, named or of a window, with the same `webhook-id`: at most 10,000, the oldest first."""

    async def deed(conn: AsyncConnection) -> Answer:
        done = await replay_many(conn, desk.principal, subscription, body, utc_now())
        return Answer(status=202, body=done.model_dump(mode="json"))

    answer, is_replay = await answer_once(desk.db, desk.organization_id, said, deed)
    return respond(answer, is_replay=is_replay)
