"""Names of the task queues; `workers/queues.py` says what runs on which."""

from __future__ import annotations

WORKFLOWS = "workflows"
WORKFLOWS_BULK = "workflows-bulk"
VENDOR = "vendor"
VENDOR_CRITICAL = "vendor-critical"
RECORDS = "records"
BULK = "bulk"

ALL = (WORKFLOWS, WORKFLOWS_BULK, VENDOR, VENDOR_CRITICAL, RECORDS, BULK)
