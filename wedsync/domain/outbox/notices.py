"""Notices for operators about subscriptions and about deliveries that were given up. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wedsync.domain.incidents.notice import Notice, Severity
from wedsync.domain.outbox.catalogue import EndpointData, FailedDeliveryData

SubscriptionNotice = Literal["endpoint.warning", "endpoint.disabled", "endpoint.resumed"]
#: Takes the vendor's place in these notices.
_SERVICE = "webhooks"
_SEVERITY: dict[SubscriptionNotice, Severity] = {
    "endpoint.warning": "warning",
    "endpoint.disabled": "critical",
    "endpoint.resumed": "info",
}
#: A failed delivery of one of these makes no notice: that would never end.
NOT_NOTIFIED = ("delivery.failed", "webhook.test")


def of_subscription(kind: SubscriptionNotice, data: EndpointData, now: datetime) -> Notice:
    """Notify that a subscription fails, was disabled, or is well again, without its URL, which may hold a secret."""
    what = {
        "endpoint.warning": f"does not answer; {data.percent} % of the time until it is disabled have gone by",
        "endpoint.disabled": f"is disabled ({data.reason}); {data.parked} deliveries wait until it is resumed",
        "endpoint.resumed": "answers again",
    }[kind]
    return Notice(
        kind=kind,
        severity=_SEVERITY[kind],
        service=_SERVICE,
        summary=f"the webhook subscription {data.id} {what}"[:300],
        occurred_at=now,
        detail=data.model_dump(mode="json", exclude={"url"}),
        about=f"{data.id} {data.percent or ''}".rstrip(),
    )


def of_failed_delivery(data: FailedDeliveryData, now: datetime) -> Notice:
    """Notify that a delivery was given up; further ones of its subscription are the same news within a window."""
    return Notice(
        kind="delivery.failed",
        severity="warning",
        service=_SERVICE,
        summary=f"a {data.event_type} was given up after {data.attempts} attempts; "
        f"the webhook subscription {data.subscription_id} does not take it",
        occurred_at=now,
        detail=data.model_dump(mode="json", exclude={"error"}),
        about=data.subscription_id,
    )
