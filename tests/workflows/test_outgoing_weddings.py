"""What happens to a wedding reaches its subscriber's own server, signed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from temporalio.service import RPCError

from tests.support.outgoing import KEYRING
from tests.support.plans import booking, plan
from tests.support.receivers import Received, Receiver, open_receiver
from tests.support.stage import Stage, Staged
from wedsync.domain.access.principal import Principal
from wedsync.domain.outbox.messages import outbox_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.usecases.outbox import subscribe
from wedsync.usecases.outbox.subscribe import NewSubscription


async def _subscribe(stage: Stage, wedding: Staged, url: str) -> str:
    """Subscribe to all of the organization's events, in order; the signing secret."""
    wanted = NewSubscription(url=url, event_types=("*",), ordered=True)
    principal = Principal(organization_id=wedding.organization_id, key_id="k")
    async with stage.db.tenant(wedding.organization_id) as conn:
        made = await subscribe.create(conn, principal, wanted, KEYRING, subscription_id=new_id(), now=utc_now())
    assert made.secret is not None
    return made.secret


async def _until_dispatched(receiver: Receiver, event_type: str) -> list[Received]:
    async with asyncio.timeout(60), receiver.news:
        await receiver.news.wait_for(lambda: event_type in receiver.types())
    return receiver.requests


async def test_a_weddings_changes_reach_their_subscriber_signed_and_in_order(stage: Stage) -> None:
    async with open_receiver() as receiver:
        wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer", needs=["venue"])))
        secret = await _subscribe(stage, wedding, receiver.url())
        tx = await wedding.request_change()
        row = await wedding.until(tx, "completed")
        told = await _until_dispatched(receiver, "transaction.completed")
        for request in told:
            for oracle in (Webhook, SvixWebhook):
                oracle(secret).verify(request.body.decode(), request.headers)
        events = [request.event for request in told]
        assert {(event["wedding_id"], event["organization_id"]) for event in events} == {
            (wedding.id, wedding.organization_id)
        }
        assert [event["data"]["id"] for event in events if event["type"] == "step.succeeded"] == ["venue", "food"]
        (completed,) = [event for event in events if event["type"] == "transaction.completed"]
        assert completed["data"]["id"] == row.id
        # One change of the wedding may be told as two events, which then share its number.
        sequences = [event["sequence"] for event in events]
        assert sequences == sorted(sequences)
        with suppress(RPCError):
            await stage.client.get_workflow_handle(outbox_workflow_id()).terminate()
