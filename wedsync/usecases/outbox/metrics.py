"""Count deliveries. Attributes hold statuses: never an id, never a URL."""

from __future__ import annotations

from wedsync.kit import telemetry

_meter = telemetry.meter()

#: Attempts by the `status` that the delivery then has.
ATTEMPTS = _meter.create_counter("delivery_attempts", description="attempts at outgoing deliveries")
#: How long attempts took, in seconds, by the same `status`.
DURATION = _meter.create_histogram("delivery_duration", unit="s", description="time an attempt took")
#: Endpoints whose `status` changed.
SUBSCRIPTIONS = _meter.create_counter("delivery_endpoints", description="changes of endpoints' health")
