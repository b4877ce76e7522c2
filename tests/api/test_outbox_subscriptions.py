from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.support.outgoing import KEYRING
from tests.support.receivers import Receiver, open_receiver
from wedsync.dispatch.outbox import OutboxDispatcher
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit.clock import utc_now
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.usecases.outbox.delivery_sender import DeliverySender
from wedsync.usecases.outbox.send import AttemptSender

SUBSCRIPTIONS = "/webhook-subscriptions"


@pytest.fixture
async def api(new_api: Any, fresh_database_urls: Any) -> Any:
    """An API on a database of its own."""
    return await new_api(fresh_database_urls)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as opened:
        yield opened


@pytest.fixture
async def delivery_sender(api: Any) -> AsyncIterator[DeliverySender]:
    sender = AttemptSender(SsrfSafeHttp(SsrfPolicy(allow_loopback=True)), KEYRING)
    delivery_sender = DeliverySender(api.db, sender, OutboxDispatcher(api.app.state.temporal))
    yield delivery_sender
    await delivery_sender.close()
    await sender.close()


async def all_sent(delivery_sender: DeliverySender) -> None:
    """Run until nothing is due and nothing is under way, however slow the machine."""
    while (await delivery_sender.run()).sent:
        await delivery_sender.idle()
    await delivery_sender.idle()


async def made(api: Any, url: str, **changes: Any) -> dict[str, Any]:
    response = await api.post(SUBSCRIPTIONS, {"url": url, "event_types": ["*"], **changes})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_a_subscription_is_made_and_its_secret_shown_once(api: Any, receiver: Receiver) -> None:
    key = api.key()
    body = {"url": receiver.url(), "event_types": ["payment.*", "step.failed"], "filters": {"wedding_id": ["w"]}}
    first = await api.http.post(f"/api/v1{SUBSCRIPTIONS}", json=body, headers=key)
    assert first.status_code == 201
    shown = first.json()
    assert shown["secret"].startswith("whsec_")
    assert (shown["status"], shown["payload"], shown["api_version"]) == ("active", "full", "2026-11-01")
    assert shown["retry_policy"] == {"max_attempts": 8, "backoff": "exponential"}
    again = await api.http.post(f"/api/v1{SUBSCRIPTIONS}", json=body, headers=key)
    assert (again.status_code, again.json()["id"], again.json()["secret"]) == (201, shown["id"], None)
    assert again.headers["idempotency-replayed"] == "true"
    found = (await api.get(f"{SUBSCRIPTIONS}/{shown['id']}")).json()
    assert "secret" not in found
    assert found["filters"] == {"wedding_id": ["w"]}
    (listed,) = (await api.get(SUBSCRIPTIONS)).json()["data"]
    assert listed == found


async def test_no_secret_is_readable_in_the_database(api: Any, receiver: Receiver, fresh_database_urls: Any) -> None:
    import psycopg

    secret = (await made(api, receiver.url()))["secret"].encode()
    with psycopg.connect(fresh_database_urls.owner) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} t").fetchall()
            assert not any(secret in row[0].encode() for row in rows), table
        (sealed,) = connection.execute("SELECT secrets FROM webhook_subscriptions").fetchone() or (b"",)
    assert secret not in bytes(sealed)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"url": "https://10.0.0.1/"}, 422, "url_forbidden"),
        ({"url": "http://partner.example/"}, 422, "url_forbidden"),
        ({"url": "https://nowhere.invalid/"}, 422, "url_unresolvable"),
        ({"event_types": ["nothing.*"]}, 422, "unknown_event_type"),
        ({"event_types": []}, 422, "invalid_input"),
        ({"filters": {"organization_id": ["x"]}}, 422, "invalid_input"),
        ({"ordered": "yes"}, 422, "invalid_input"),
        ({"retry_policy": {"max_attempts": 0}}, 422, "invalid_input"),
        ({"secret": "mine"}, 422, "invalid_input"),
    ],
)
async def test_what_can_not_be_is_refused(
    api: Any, receiver: Receiver, changes: dict[str, Any], status: int, code: str
) -> None:
    response = await api.post(SUBSCRIPTIONS, {"url": receiver.url(), "event_types": ["*"], **changes})
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_change_of_the_plan_reaches_the_subscriber(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    secret = (await made(api, receiver.url()))["secret"]
    wedding_id, transaction_id = await api.orchestrated()
    await api.move(wedding_id, transaction_id, "completed")
    await all_sent(delivery_sender)
    # Without `ordered` several are under way at once: the sequence tells what came first.
    assert sorted((request.event["sequence"], request.event["type"]) for request in receiver.requests) == [
        (1, "client.created"),
        (1, "wedding.created"),
        (2, "transaction.started"),
        (3, "transaction.completed"),
    ]
    for request in receiver.requests:
        Webhook(secret).verify(request.body.decode(), request.headers)


async def test_a_subscription_can_be_changed_and_null_takes_its_limit_off(api: Any, receiver: Receiver) -> None:
    one = await made(api, receiver.url(), rate_per_second=5)
    path = f"/api/v1{SUBSCRIPTIONS}/{one['id']}"
    changed = (await api.http.patch(path, json={"rate_per_second": None, "payload": "thin"})).json()
    assert (changed["rate_per_second"], changed["payload"], changed["url"]) == (None, "thin", one["url"])
    assert (await api.http.patch(path, json={"payload": None})).status_code == 422
    assert (await api.http.patch(path, json={"url": "https://127.0.0.1.nip.invalid/"})).status_code == 422
    assert (await api.http.patch(path, json={"url": "https://[::ffff:10.0.0.1]/"})).json()["code"] == "url_forbidden"


async def test_both_secrets_sign_while_a_rotation_overlaps(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    one = await made(api, receiver.url())
    key = api.key()
    path = f"/api/v1{SUBSCRIPTIONS}/{one['id']}/rotate-secret"
    rotated = await api.http.post(path, json={"overlap_seconds": 3600}, headers=key)
    again = await api.http.post(path, json={"overlap_seconds": 3600}, headers=key)
    assert (rotated.status_code, again.json()["secret"]) == (201, None)
    test = await api.post(f"{SUBSCRIPTIONS}/{one['id']}/test")
    assert (test.status_code, test.json()["event_type"]) == (202, "webhook.test")
    await all_sent(delivery_sender)
    (request,) = receiver.requests
    for secret in (one["secret"], rotated.json()["secret"]):
        Webhook(secret).verify(request.body.decode(), request.headers)
    assert request.headers["x-wedsync-signature"].count("v1=") == 2
    detail = (await api.get(f"/deliveries/{test.json()['id']}")).json()
    assert (detail["status"], detail["why"], detail["attempts_made"][0]["status"]) == ("delivered", "", 200)


async def test_a_rotation_without_overlap_ends_the_old_secret(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    one = await made(api, receiver.url())
    await api.post(f"{SUBSCRIPTIONS}/{one['id']}/rotate-secret", {"overlap_seconds": 0})
    await api.post(f"{SUBSCRIPTIONS}/{one['id']}/test")
    await all_sent(delivery_sender)
    with pytest.raises(Exception, match="signature"):
        Webhook(one["secret"]).verify(receiver.requests[0].body.decode(), receiver.requests[0].headers)


async def test_a_paused_subscription_can_be_resumed_but_not_replayed_to(api: Any, receiver: Receiver) -> None:
    one = await made(api, receiver.url())
    path = f"{SUBSCRIPTIONS}/{one['id']}"
    assert (await api.post(f"{path}/pause")).json()["status"] == "paused"
    assert (await api.post(f"{path}/pause")).json()["status"] == "paused"
    replay = await api.post(f"{path}/replay", {"since": "2026-01-01T00:00:00Z"})
    assert (replay.status_code, replay.json()["code"]) == (409, "subscription_stopped")
    assert (await api.post(f"{path}/resume")).json()["status"] == "recovering"


async def test_one_many_or_a_window_are_sent_again_with_the_same_ids(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    one = await made(api, receiver.url(), event_types=["wedding.*", "client.created"])
    for _ in range(3):
        await api.wedding()
    await all_sent(delivery_sender)
    sent = (await api.get("/deliveries", limit=100)).json()["data"]
    assert len(sent) == 6
    assert (await api.post(f"/deliveries/{sent[0]['id']}/replay")).status_code == 202
    many = {"delivery_ids": [sent[0]["id"], sent[1]["id"]], "statuses": ["delivered"]}
    assert (await api.post(f"{SUBSCRIPTIONS}/{one['id']}/replay", many)).json() == {"count": 1}
    since = (utc_now() - timedelta(hours=1)).isoformat()
    window = {"since": since, "statuses": ["delivered"], "event_types": ["wedding.created"]}
    assert (await api.post(f"{SUBSCRIPTIONS}/{one['id']}/replay", window)).json()["count"] in (2, 3)
    await all_sent(delivery_sender)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(set(ids)) == 6
    assert len(ids) >= 9
    neither = await api.post(f"{SUBSCRIPTIONS}/{one['id']}/replay", {})
    assert neither.status_code == 422


async def test_deliveries_are_paged_and_filtered(api: Any, receiver: Receiver) -> None:
    one = await made(api, receiver.url())
    wedding = await api.wedding()
    page = (await api.get("/deliveries", limit=1)).json()
    rest = (await api.get("/deliveries", cursor=page["next_cursor"])).json()
    assert (len(page["data"]), len(rest["data"]), rest["next_cursor"]) == (1, 1, None)
    assert len((await api.get("/deliveries", subscription=one["id"], wedding=wedding["id"])).json()["data"]) == 2
    assert (await api.get("/deliveries", status="failed")).json()["data"] == []
    waiting = (await api.get(f"/deliveries/{rest['data'][0]['id']}")).json()
    assert waiting["why"] == "waits to be sent; it was not tried yet"
    assert waiting["body"]["wedding_id"] == wedding["id"]


async def test_a_deleted_subscription_gets_nothing_more_and_its_deliveries_stay(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    one = await made(api, receiver.url())
    await api.wedding()
    path = f"{SUBSCRIPTIONS}/{one['id']}"
    assert (await api.http.delete(f"/api/v1{path}")).status_code == 204
    assert (await api.get(path)).status_code == 404
    await api.wedding()
    assert (await delivery_sender.run()).sent == 0
    kept = (await api.get("/deliveries")).json()["data"]
    assert [(row["status"], row["last_error"]) for row in kept] == [("failed", "the subscription was deleted")] * 2
    assert (await api.get(f"/deliveries/{kept[0]['id']}")).json()["why"] == "the subscription was deleted"


@pytest.mark.parametrize("path", ["/webhook-subscriptions/x", "/deliveries/%00", "/deliveries/" + "0" * 26])
async def test_what_is_not_there_is_not_found(api: Any, path: str) -> None:
    assert (await api.get(path)).status_code == 404


async def test_the_catalogue_can_be_read(api: Any) -> None:
    listed = (await api.get("/event-types")).json()["data"]
    assert {"payment.completed", "vendor.failed_over", "timeline.changed"} <= {entry["name"] for entry in listed}
    assert listed[0]["json_schema"]["properties"]["id"]


async def test_what_became_of_a_subscription_can_be_read_though_nobody_was_told(
    api: Any, receiver: Receiver, delivery_sender: DeliverySender
) -> None:
    receiver.answer = lambda request: (410, {})
    subscription = (await made(api, receiver.url(), event_types=["payment.*"]))["id"]
    assert (await api.get(f"{SUBSCRIPTIONS}/{subscription}/news")).json() == {"data": [], "next_cursor": None}
    assert (await api.post(f"{SUBSCRIPTIONS}/{subscription}/test", {})).status_code == 202
    await all_sent(delivery_sender)
    (item,) = (await api.get(f"{SUBSCRIPTIONS}/{subscription}/news")).json()["data"]
    assert (item["type"], item["data"]["id"], item["data"]["reason"]) == ("endpoint.disabled", subscription, "gone")
    assert (await api.get(f"{SUBSCRIPTIONS}/01ARZ3NDEKTSV4RRFFQ69G5FAV/news")).status_code == 404
