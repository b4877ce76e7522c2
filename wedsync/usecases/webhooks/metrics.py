"""What the inbox counts. Attributes hold sources, reasons and lanes: never an id."""

from __future__ import annotations

from opentelemetry import metrics

_meter = metrics.get_meter("wedsync.webhooks")

#: Events taken in, by `source` and `duplicate`.
RECEIVED = _meter.create_counter("wedsync.inbox.received", unit="{event}", description="inbound events accepted")
#: Requests turned away, by `source` and `reason`.
REFUSED = _meter.create_counter("wedsync.inbox.refused", unit="{request}", description="inbound requests refused")
#: Rows that a drain settled or put off, by `lane` and `state`.
PROCESSED = _meter.create_counter("wedsync.inbox.processed", unit="{event}", description="inbound events looked at")
#: From recorded to processed, in seconds, by `lane`.
LAG = _meter.create_histogram("wedsync.inbox.lag", unit="s", description="time from recorded to processed")
#: Tells that did not reach Temporal, by `lane`; the sweep tells again.
UNTOLD = _meter.create_counter("wedsync.inbox.untold", unit="{tell}", description="tells that failed")
