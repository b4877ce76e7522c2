"""Count the inbox's work. Attributes hold sources, reasons and lanes: never an id."""

from __future__ import annotations

from wedsync.kit import telemetry

_meter = telemetry.meter()

#: Events received, by `source` and `duplicate`.
RECEIVED = _meter.create_counter("inbox_received", description="inbound events accepted")
#: Requests refused, by `source` and `reason`.
REFUSED = _meter.create_counter("inbox_refused", description="inbound requests refused")
#: Rows that a drain completed or put off, by `lane` and `state`.
PROCESSED = _meter.create_counter("inbox_processed", description="inbound events looked at")
#: From recorded to processed, in seconds, by `lane`.
LAG = _meter.create_histogram("inbox_lag", unit="s", description="time from recorded to processed")

#: Objects of a vendor's own list that could not be read, by `source`.
UNREADABLE = _meter.create_counter("inbox_unreadable", description="listed objects that were skipped")
#: Events of a vendor's own list that the inbox lacked, by `source`.
GAPS = _meter.create_counter("inbox_gaps", description="events found missing and filled in")
