"""Search attributes by which operators find weddings; never encrypted, so they hold ids and dates only."""

from __future__ import annotations

from typing import Literal

AttributeType = Literal["Keyword", "KeywordList"]

ORGANIZATION_ID = "OrganizationId"
WEDDING_ID = "WeddingId"
#: The venue-local date, `YYYY-MM-DD`.
WEDDING_DATE = "WeddingDate"
WEDDING_PHASE = "WeddingPhase"
TRANSACTION_STATUS = "TransactionStatus"
VENDOR = "Vendor"

#: Attributes that `migrate` creates, by Temporal's type names.
ALL: dict[str, AttributeType] = {
    ORGANIZATION_ID: "Keyword",
    WEDDING_ID: "Keyword",
    WEDDING_DATE: "Keyword",
    WEDDING_PHASE: "Keyword",
    TRANSACTION_STATUS: "Keyword",
    VENDOR: "KeywordList",
}
