"""`/api/v1/notification-channels`: how operators are notified of failovers, health and quotas."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer
from wedsync.http.deps import MustBeOnce, OnOperatorsDesk, respond
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.lookups import resolve
from wedsync.kit.ssrf import check_url
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.incidents import channels
from wedsync.usecases.incidents.channels import ChannelView, ChannelWithSecret, WantedChannel
from wedsync.usecases.outbox.send import ssrf_policy

router = APIRouter(tags=["services"])
_PREFIX = "/notification-channels"
_ONE = _PREFIX + "/{channel}"
_REFUSED: dict[int | str, dict[str, Any]] = {403: {"description": "The key is no operator's."}}

ChannelId = Annotated[str, Path(pattern=r"^[0-9A-Za-z]{1,64}$")]


@router.get(_PREFIX, responses=_REFUSED, summary="List notification channels")
async def list_notification_channels(context: OnOperatorsDesk) -> channels.Channels:
    """List the organization's channels and how they fare. For operators."""
    async with context.db.tenant(context.organization_id) as conn:
        return await channels.read_all(conn)


@router.post(
    _PREFIX,
    status_code=201,
    response_model=ChannelWithSecret,
    responses={**_REFUSED, 409: {"description": "There are too many channels already."}},
    summary="Make a notification channel",
)
async def create_notification_channel(
    body: WantedChannel, context: OnOperatorsDesk, idempotency: MustBeOnce
) -> JSONResponse:
    """Notify operators by log, signed webhook, email or text message; a webhook's secret is shown this once."""
    if body.kind == "webhook":
        resolver = getattr(context.state, "resolver", resolve)
        await check_url(body.target, ssrf_policy(context.state.settings), resolver, owner=context.organization_id)
    keyring = Keyring.parse(context.state.settings.codec_keys.get_secret_value())
    secrets: list[str | None] = []

    async def action(conn: AsyncConnection) -> Answer:
        view = await channels.create(conn, context.principal, body, keyring, context.new_id(idempotency), utc_now())
        secrets.append(view.secret)
        # What is kept for a repeated request holds no secret.
        kept = view.model_copy(update={"secret": None}).model_dump(mode="json")
        return Answer(status=201, headers={"Location": f"/api/v1{_PREFIX}/{view.id}"}, body=kept)

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    if secrets and not is_replay and isinstance(answer.body, dict):
        answer = answer.model_copy(update={"body": {**answer.body, "secret": secrets[0]}})
    return respond(answer, is_replay=is_replay)


@router.get(_ONE, responses=_REFUSED, summary="Show a notification channel")
async def get_notification_channel(channel: ChannelId, context: OnOperatorsDesk) -> ChannelView:
    """Show one channel, never its secret. For operators."""
    async with context.db.tenant(context.organization_id) as conn:
        return await channels.show(conn, channel)


@router.delete(_ONE, status_code=204, responses=_REFUSED, summary="Delete a notification channel")
async def delete_notification_channel(channel: ChannelId, context: OnOperatorsDesk) -> Response:
    """Stop notifying by the channel; messages that wait are given up. For operators."""
    async with context.db.tenant(context.organization_id) as conn:
        await channels.delete(conn, context.principal, channel, utc_now())
    return Response(status_code=204)


@router.post(_ONE + "/test", status_code=202, responses=_REFUSED, summary="Test a notification channel")
async def test_notification_channel(channel: ChannelId, context: OnOperatorsDesk) -> ChannelView:
    """Send a `channel.test` by the channel soon; `told_at` and `error` then show its result. For operators."""
    await channels.try_out(context.db, context.principal, channel, utc_now())
    return await get_notification_channel(channel, context)
