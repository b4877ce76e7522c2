"""Registered sources through the API: posted to, rotated, slowed, listed, matched, assigned, replayed, counted."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from wedsync.kit.contacts import contact_digest
from wedsync.kit.settings import VendorSettings
from wedsync.store.inbox.tables import contact_refs, inbox, webhook_secrets

HMAC = {"scheme": "hmac_sha256", "paths": {"id": "id", "type": "kind", "wedding": "wedding", "object_id": "object"}}
POSTS = "/api/integrations/webhooks"


def signed(body: bytes, secret: str) -> dict[str, str]:
    return {"X-Signature": hmac.digest(secret.encode(), body, "sha256").hex(), "Content-Type": "application/json"}


def event(number: int, **more: Any) -> bytes:
    return json.dumps({"id": f"e{number}", "kind": "booking.confirmed", **more}).encode()


class Posts:
    """Registers sources and posts to them."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def register(self, name: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        response = await self.api.post("/webhook-sources", {"name": name, "config": config or HMAC, **more})
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def post(self, path: str, body: bytes, secret: str, **headers: str) -> httpx.Response:
        response = await self.api.http.post(
            f"{POSTS}/{path}", content=body, headers={**signed(body, secret), **headers}
        )
        assert isinstance(response, httpx.Response)
        return response

    async def rows(self, source_id: str) -> list[Any]:
        async with self.api.db.system() as conn:
            return list(
                (await conn.execute(select(inbox).where(inbox.c.source == source_id).order_by(inbox.c.id))).all()
            )

    def forget(self) -> None:
        """As if a second had passed: registered sources are read anew."""
        receiver = self.api.app.state.webhook_receiver
        receiver._sources._kept.clear()


@pytest.fixture
async def posts(new_api: Any, fresh_database_urls: Any) -> Posts:
    return Posts(await new_api(fresh_database_urls))


async def test_a_registered_source_posts_to_its_name_and_to_its_id(posts: Posts) -> None:
    made = await posts.register("weather")
    assert made["url"].endswith(f"{POSTS}/weather")
    assert made["connection_url"].endswith(f"{POSTS}/weather/{made['id']}")
    assert made["secret"].startswith("whsec_")
    first = await posts.post("weather", event(1), made["secret"])
    again = await posts.post(f"weather/{made['id']}", event(1), made["secret"])
    assert (first.status_code, first.json()) == (200, {"received": True, "event_id": "e1", "duplicate": False})
    assert again.json()["duplicate"] is True
    (row,) = await posts.rows(made["id"])
    assert (row.organization_id, row.state, row.priority) == (posts.api.access.organization_id, "received", 2)
    wrong = await posts.post("weather", event(2), "another")
    other = await posts.post("weather/nobody", event(2), made["secret"])
    assert (wrong.status_code, other.status_code) == (401, 404)


async def test_a_secret_is_shown_once_and_stored_sealed(posts: Posts) -> None:
    body = {"name": "weather", "config": HMAC, "secret": "given-by-the-source"}
    key = {"Idempotency-Key": "same"}
    first = await posts.api.http.post("/api/v1/webhook-sources", json=body, headers=key)
    again = await posts.api.http.post("/api/v1/webhook-sources", json=body, headers=key)
    assert (first.status_code, first.json()["secret"]) == (201, "given-by-the-source")
    assert (again.status_code, again.json()["secret"], again.json()["id"]) == (201, None, first.json()["id"])
    assert (await posts.api.get("/webhook-sources/weather")).json()["secret"] is None
    async with posts.api.db.system() as conn:
        (sealed,) = (await conn.execute(select(webhook_secrets.c.sealed))).scalars()
        remembered = (
            await conn.execute(text("SELECT body::text FROM idempotency_keys WHERE key = 'same'"))
        ).scalar_one()
    assert b"given" not in sealed
    assert "given" not in remembered


async def test_rotation_takes_the_old_secret_for_the_overlap_only(posts: Posts) -> None:
    made = await posts.register("weather")
    rotated = (await posts.api.post("/webhook-sources/weather/rotate", {"overlap_seconds": 3600})).json()
    assert rotated["secret"] != made["secret"]
    assert [one["expires_at"] is None for one in rotated["secrets"]] == [True, False]
    for number, secret in enumerate((made["secret"], rotated["secret"])):
        assert (await posts.post("weather", event(number), secret)).status_code == 200
    last = (await posts.api.post("/webhook-sources/weather/rotate", {"overlap_seconds": 0})).json()
    posts.forget()
    answers = [
        (await posts.post("weather", event(9), secret)).status_code
        for secret in (made["secret"], rotated["secret"], last["secret"])
    ]
    assert answers == [401, 401, 200]


async def test_a_source_is_listed_changed_paused_resumed_and_deleted(posts: Posts) -> None:
    made = await posts.register("weather")
    assert [one["name"] for one in (await posts.api.get("/webhook-sources")).json()["data"]] == ["weather"]
    patch = posts.api.http.patch
    path = f"/api/v1/webhook-sources/{made['id']}"
    changed = await patch(path, json={"state": "paused", "config": {"priority": "critical", "burst": 5}})
    assert (changed.status_code, changed.json()["state"], changed.json()["config"]["burst"]) == (200, "paused", 5)
    assert (await posts.post("weather", event(1), made["secret"])).status_code == 404
    assert (await patch(path, json={"state": "active"})).json()["config"]["priority"] == "critical"
    posts.forget()
    assert (await posts.post("weather", event(1), made["secret"])).status_code == 200
    (row,) = await posts.rows(made["id"])
    assert row.priority == 1
    for wrong in ({"config": {"burst": 0}}, {"config": {"scheme": "github"}}, {"config": {"x": 1}}, {"state": "gone"}):
        refused = await patch(path, json=wrong)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input"), wrong
    assert (await posts.api.http.delete(path)).status_code == 204
    posts.forget()
    assert (await posts.post("weather", event(2), made["secret"])).status_code == 404
    assert (await posts.api.get(f"/webhook-sources/{made['id']}")).status_code == 404
    assert len(await posts.rows(made["id"])) == 1


async def test_a_name_is_unique_and_a_vendors_name_gets_an_address_of_its_own(posts: Posts) -> None:
    await posts.register("weather")
    taken = await posts.api.post("/webhook-sources", {"name": "weather", "config": HMAC})
    assert (taken.status_code, taken.json()["code"]) == (409, "webhook_name_taken")
    own = await posts.register("stripe", {"scheme": "stripe"})
    assert not own["url"].endswith("/stripe")
    stamp = int(time.time())
    body = json.dumps(
        {
            "id": "evt_1",
            "type": "payment_intent.succeeded",
            "data": {"object": {"id": "pi_1", "object": "payment_intent"}},
        }
    ).encode()
    mac = hmac.digest(own["secret"].encode(), f"{stamp}.".encode() + body, "sha256").hex()
    headers = {"Stripe-Signature": f"t={stamp},v1={mac}"}
    for url in (own["url"], own["connection_url"]):
        path = "/" + url.split("/", 3)[3]
        assert (await posts.api.http.post(path, content=body, headers=headers)).status_code == 200, url
    assert (await posts.api.http.post(f"{POSTS}/stripe", content=body, headers=headers)).status_code == 401
    (row,) = await posts.rows(own["id"])
    assert (row.event["source"], row.event["type"], row.event["object_id"]) == ("stripe", "payment.succeeded", "pi_1")


async def test_only_named_networks_may_post(posts: Posts) -> None:
    made = await posts.register("weather", {**HMAC, "allowed_networks": ["192.0.2.0/24", "2001:db8::/32"]})
    refused = await posts.post("weather", event(1), made["secret"])
    assert (refused.status_code, refused.json()["code"]) == (403, "webhook_address")
    path = f"/api/v1/webhook-sources/{made['id']}"
    await posts.api.http.patch(path, json={"config": {"allowed_networks": ["127.0.0.1/32"]}})
    posts.forget()
    assert (await posts.post("weather", event(1), made["secret"])).status_code == 200
    wrong = await posts.api.post("/webhook-sources", {"name": "x", "config": {**HMAC, "allowed_networks": ["a"]}})
    assert wrong.status_code == 422


async def test_each_source_has_its_own_rate_and_burst(posts: Posts) -> None:
    slow = await posts.register("slow", {**HMAC, "rate_per_second": 0.1, "burst": 2})
    quick = await posts.register("quick")
    answers = [await posts.post("slow", event(number), slow["secret"]) for number in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
    assert (await posts.post("quick", event(1), quick["secret"])).status_code == 200


async def test_types_that_are_not_registered_for_are_acknowledged_and_dropped(posts: Posts) -> None:
    config = {**HMAC, "event_types": ["storm"], "type_map": {"storm": "booking.declined"}}
    made = await posts.register("weather", config)
    for number, kind in enumerate(("storm", "sunshine")):
        assert (await posts.post("weather", event(number, kind=kind), made["secret"])).status_code == 200
    (row,) = await posts.rows(made["id"])
    assert (row.event["vendor_type"], row.event["type"]) == ("storm", "booking.declined")


async def test_a_burst_is_recorded_in_few_transactions_and_each_duplicate_is_told(posts: Posts) -> None:
    made = await posts.register("weather")
    bodies = [event(number % 40) for number in range(120)]
    answers = await asyncio.gather(*(posts.post("weather", body, made["secret"]) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(not answer.json()["duplicate"] for answer in answers) == 40
    assert len(await posts.rows(made["id"])) == 40


async def test_services_that_are_no_vendors_answer_their_handshakes_and_take_their_events(posts: Posts) -> None:
    secret = posts.api.settings.vendor_webhook_secrets("zoom")[0]
    stamp = str(int(time.time()))

    def zoom(body: bytes, key: str = secret) -> dict[str, str]:
        mac = hmac.digest(key.encode(), f"v0:{stamp}:".encode() + body, "sha256").hex()
        return {"x-zm-signature": f"v0={mac}", "x-zm-request-timestamp": stamp}

    body = b'{"event": "endpoint.url_validation", "payload": {"plainToken": "abc"}}'
    answered = await posts.api.http.post(f"{POSTS}/zoom", content=body, headers=zoom(body))
    assert answered.json() == {
        "plainToken": "abc",
        "encryptedToken": hmac.digest(secret.encode(), b"abc", "sha256").hex(),
    }
    # Unsigned it would hand out signatures.
    assert (await posts.api.http.post(f"{POSTS}/zoom", content=body)).status_code == 401
    body = b'{"event": "meeting.started", "event_ts": 1626230691572, "payload": {"object": {"id": "77"}}}'
    assert (await posts.api.http.post(f"{POSTS}/zoom", content=body, headers=zoom(body))).status_code == 200
    (row,) = await posts.rows("zoom")
    assert (row.event["vendor_type"], row.event["object_id"]) == ("meeting.started", "77")
    token = posts.api.settings.vendor_webhook_secrets("meta")[0]
    query = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": token}
    shaken = await posts.api.http.get(f"{POSTS}/meta", params=query)
    assert (shaken.status_code, shaken.text) == (200, "1158201444")
    refused = await posts.api.http.get(f"{POSTS}/meta", params={**query, "hub.verify_token": "x"})
    assert refused.status_code == 403
    body = b'{"zen": "Keep it logically awesome."}'
    mac = hmac.digest(posts.api.settings.vendor_webhook_secrets("github")[0].encode(), body, "sha256").hex()
    headers = {"X-Hub-Signature-256": f"sha256={mac}", "X-GitHub-Delivery": "d-1", "X-GitHub-Event": "ping"}
    assert (await posts.api.http.post(f"{POSTS}/github", content=body, headers=headers)).json()["event_id"] == "d-1"


@pytest.mark.parametrize("is_registered", [True, False])
async def test_meta_proves_our_address_by_a_token_that_signs_nothing(
    new_api: Any, fresh_database_urls: Any, is_registered: bool
) -> None:
    vendors = {"meta": VendorSettings(webhook_secret=SecretStr("app-secret"), verify_token=SecretStr("shown-in-urls"))}
    posts = Posts(await new_api(fresh_database_urls, **({} if is_registered else {"vendors": vendors})))
    name = "pages" if is_registered else "meta"
    if is_registered:
        await posts.register(name, {"scheme": "meta", "verify_token": "shown-in-urls"}, secret="app-secret")
    found = []
    for token in ("shown-in-urls", "app-secret", ""):
        query = {"hub.mode": "subscribe", "hub.challenge": "7", "hub.verify_token": token}
        found.append((await posts.api.http.get(f"{POSTS}/{name}", params=query)).status_code)
    assert found == [200, 403, 403]
    body = b'{"object": "page", "entry": [{"id": "1"}]}'
    statuses = []
    for secret in ("app-secret", "shown-in-urls"):
        mac = hmac.digest(secret.encode(), body, "sha256").hex()
        headers = {"X-Hub-Signature-256": f"sha256={mac}"}
        statuses.append((await posts.api.http.post(f"{POSTS}/{name}", content=body, headers=headers)).status_code)
    assert statuses == [200, 401]


async def test_an_unmatched_event_is_listed_assigned_and_due_at_once(posts: Posts) -> None:
    api = posts.api
    wedding = (await api.wedding())["id"]
    made = await posts.register("weather")
    await posts.post("weather", event(1, wedding="nobody"), made["secret"])
    async with api.db.system() as conn:
        await conn.execute(update(inbox).values(state="unmatched", due_at=None))
    (listed,) = (await api.get("/inbox", state="unmatched")).json()["data"]
    assert (listed["event_id"], listed["type"]) == ("e1", "booking.confirmed")
    assert (await api.get(f"/inbox/{listed['id']}")).json() == listed
    assert (await api.post(f"/inbox/{listed['id']}/assign", {"wedding_id": "none"})).status_code == 404
    assigned = await api.post(f"/inbox/{listed['id']}/assign", {"wedding_id": wedding, "step_id": "venue"})
    assert (assigned.status_code, assigned.json()["state"]) == (202, "received")
    (row,) = await posts.rows(made["id"])
    assert (row.event["wedding_id"], row.event["step_id"], row.due_at is not None) == (wedding, "venue", True)
    assert (await api.get("/inbox", state="unmatched")).json()["data"] == []
    assert (await api.post("/inbox/999/assign", {"wedding_id": wedding})).status_code == 404


async def test_dead_events_are_replayed_one_many_or_by_time_and_processed_ones_never(posts: Posts) -> None:
    made = await posts.register("weather")
    for number in range(6):
        await posts.post("weather", event(number), made["secret"])
    async with posts.api.db.system() as conn:
        await conn.execute(update(inbox).values(state="dead", due_at=None, attempts=9, error="does not fit"))
        await conn.execute(update(inbox).where(inbox.c.event_id == "e5").values(state="processed"))
    ids = [row.id for row in await posts.rows(made["id"])]
    one = await posts.api.post("/inbox/replay", {"ids": [ids[0], ids[5]]})
    assert (one.status_code, one.json()) == (202, {"replayed": 1})
    row = (await posts.rows(made["id"]))[0]
    assert (row.state, row.attempts, row.error, row.due_at is not None) == ("received", 0, None, True)
    window = {"since": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z", "source": made["id"]}
    assert (await posts.api.post("/inbox/replay", window)).json() == {"replayed": 0}
    assert (await posts.api.post("/inbox/replay", {"since": "2020-01-01T00:00:00Z"})).json() == {"replayed": 4}
    for wrong in ({}, {"ids": [1], "since": "2020-01-01T00:00:00Z"}, {"ids": [1], "states": ["processed"]}):
        assert (await posts.api.post("/inbox/replay", wrong)).status_code == 422


async def test_statistics_count_what_came_what_was_refused_and_how_long_it_took(posts: Posts) -> None:
    made = await posts.register("weather", {**HMAC, "event_types": ["booking.confirmed", "storm"]})
    for number in range(4):
        await posts.post("weather", event(number), made["secret"])
    await posts.post("weather", event(0), made["secret"])
    await posts.post("weather", event(8, kind="storm"), made["secret"])
    await posts.post("weather", event(9, kind="sunshine"), made["secret"])
    await posts.post("weather", event(1), "another")
    await posts.post("weather", b"[]", made["secret"])
    await posts.post("weather", b"x" * 2_000_000, made["secret"])
    async with posts.api.db.system() as conn:
        done = update(inbox).where(inbox.c.event_id < "e3")
        took = inbox.c.received_at + timedelta(seconds=2)
        await conn.execute(done.values(state="processed", processed_at=took))
        await conn.execute(update(inbox).where(inbox.c.event_id == "e3").values(state="dead", attempts=9))
    await posts.api.app.state.webhook_receiver._tally.flush()
    found = (await posts.api.get("/webhook-sources/weather/statistics")).json()
    assert found["total"] == {
        "type": "*", "received": 5, "processed": 3, "retried": 1, "retrying": 0, "dead": 1, "unmatched": 0
    }  # fmt: skip
    assert [(one["type"], one["received"]) for one in found["by_type"]] == [("booking.confirmed", 4), ("storm", 1)]
    assert found["refused"] == {"content_too_large": 1, "invalid_input": 1, "webhook_signature": 1}
    assert (found["duplicates"], found["ignored"]) == (1, 1)
    assert found["latency_seconds"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    storm = (await posts.api.get("/webhook-sources/weather/statistics", type="storm")).json()
    assert (storm["total"]["received"], storm["latency_seconds"]) == (1, None)
    assert (await posts.api.get("/webhook-sources/stripe/statistics")).json()["total"]["received"] == 0
    assert (await posts.api.get("/webhook-sources/nobody/statistics")).status_code == 404
    long = await posts.api.get("/webhook-sources/weather/statistics", since="2020-01-01T00:00:00Z")
    assert long.status_code == 422


async def test_a_weddings_contacts_are_kept_as_digests_only(posts: Posts) -> None:
    api = posts.api
    contacts = [{"id": "anna", "name": "Anna", "phone": "+390318125551", "email": "Anna@Example.test"}]
    plan = api.plan()
    plan["wedding"]["contacts"] = [*plan["wedding"].get("contacts", []), *contacts]
    wedding = (await api.post("/weddings", plan)).json()["id"]
    pepper = api.settings.api_key_pepper.get_secret_value()
    async with api.db.system() as conn:
        kept = set(
            (await conn.execute(select(contact_refs.c.digest).where(contact_refs.c.wedding_id == wedding))).scalars()
        )
    for said in ("+39 031 812 5551", "390318125551", "whatsapp:+390318125551", "anna@example.test"):
        assert contact_digest(said, pepper) in kept, said
    assert contact_digest("+390318125552", pepper) not in kept
    for nothing in ("", "anna", "@", "a@", "+", "\udc80", "12"):
        assert contact_digest(nothing, pepper) is None


async def test_an_organization_sees_nothing_of_anothers_sources_and_inbox(posts: Posts) -> None:
    from wedsync.kit.clock import utc_now
    from wedsync.kit.crypto import hash_api_key, new_api_key
    from wedsync.store.access import queries as access

    made = await posts.register("weather")
    await posts.post("weather", event(1), made["secret"])
    key = new_api_key()
    async with posts.api.db.system() as conn:
        await access.add_organization(conn, "other", "Other", utc_now())
        pepper = posts.api.settings.api_key_pepper.get_secret_value()
        await access.add_key(conn, "other", "key-other", "k", hash_api_key(key, pepper), utc_now())
    bearer = {"Authorization": f"Bearer {key}"}
    (row,) = await posts.rows(made["id"])
    get = posts.api.http.get
    assert (await get("/api/v1/webhook-sources", headers=bearer)).json()["data"] == []
    assert (await get("/api/v1/inbox", headers=bearer)).json()["data"] == []
    for path in (f"webhook-sources/{made['id']}", f"inbox/{row.id}", "webhook-sources/weather/statistics"):
        assert (await get(f"/api/v1/{path}", headers=bearer)).status_code == 404, path
    # The name is theirs to take too, at an address of its own.
    body = {"name": "weather", "config": HMAC}
    theirs = await posts.api.http.post("/api/v1/webhook-sources", json=body, headers={**bearer, **posts.api.key()})
    assert theirs.status_code == 201
    assert theirs.json()["url"] != made["url"]
    told = await posts.post(theirs.json()["url"].rpartition("/")[2], event(1), theirs.json()["secret"])
    assert told.json()["duplicate"] is False


@pytest.mark.parametrize(
    "config",
    [
        {"scheme": "nobody"},
        {"scheme": "hmac_sha256", "hmac": {"header": "a b"}},
        {"scheme": "hmac_sha256", "retry_policy": {"multiplier": 0}},
        {"scheme": "hmac_sha256", "priority": "soon"},
        {"scheme": "hmac_sha256", "more": 1},
    ],
)
async def test_a_configuration_that_makes_no_sense_is_refused(api: Any, config: dict[str, Any]) -> None:
    refused = await api.post("/webhook-sources", {"name": "weather", "config": config})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


async def test_base64_and_time_are_taken_as_configured(posts: Posts) -> None:
    options = {"header": "X-Mac", "encoding": "base64", "timestamp_header": "X-Time"}
    made = await posts.register("weather", {**HMAC, "hmac": options})
    stamp = str(int(time.time()))
    mac = hmac.digest(made["secret"].encode(), stamp.encode() + b"." + event(1), "sha256")
    headers = {"X-Mac": base64.b64encode(mac).decode(), "X-Time": stamp}
    path = f"{POSTS}/weather"
    assert (await posts.api.http.post(path, content=event(1), headers=headers)).status_code == 200
    late = {**headers, "X-Time": str(int(stamp) - 4000)}
    assert (await posts.api.http.post(path, content=event(1), headers=late)).status_code == 401


async def test_a_source_with_a_list_is_given_an_account_that_is_never_shown(posts: Any) -> None:
    config = {"scheme": "stripe", "reconcile_every_minutes": 15}
    body: dict[str, Any] = {"name": "our-stripe", "config": config}
    refused = await posts.api.post("/webhook-sources", body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "account")
    unlisted = {**body, "config": {**config, "scheme": "github"}, "account": {"api_key": "k"}}
    refused = await posts.api.post("/webhook-sources", unlisted)
    assert refused.json()["errors"][0]["field"] == "config.reconcile_every_minutes"
    made = await posts.api.post("/webhook-sources", {**body, "account": {"api_key": "sk_live_private"}})
    assert (made.status_code, made.json()["has_account"]) == (201, True)
    assert "sk_live_private" not in made.text
    shown = await posts.api.get("/webhook-sources/our-stripe")
    assert "sk_live_private" not in shown.text
    assert shown.json()["config"]["reconcile_every_minutes"] == 15
