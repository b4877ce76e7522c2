"""The task queues, by name; what runs on which is in `workers/queues.py`."""

from __future__ import annotations

WORKFLOWS = "workflows"
WORKFLOWS_BULK = "workflows-bulk"
VENDOR = "vendor"
VENDOR_CRITICAL = "vendor-critical"
RECORDS = "records"
BULK = "bulk"

ALL = (WORKFLOWS, WORKFLOWS_BULK, VENDOR, VENDOR_CRITICAL, RECORDS, BULK)
