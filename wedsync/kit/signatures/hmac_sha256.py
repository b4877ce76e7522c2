"""HMAC-SHA256 over the exact bytes in its many spellings: GitHub, Meta, Slack, Zoom, and whatever is configured."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wedsync.kit.signatures.read import TOLERANCE_SECONDS, any_equal, header, is_fresh, text_bytes, unix_seconds


class HmacOptions(BaseModel):
    """How a source writes its HMAC-SHA256."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: Where the signature stands; several of them, by commas, are each tried.
    header: str = Field(default="x-signature", pattern=r"^[A-Za-z0-9-]{1,64}$")
    encoding: Literal["hex", "base64"] = "hex"
    #: What stands before the signature: `sha256=`.
    prefix: str = Field(default="", max_length=32)
    #: Where the unix time stands that is signed too; empty: the source signs none.
    timestamp_header: str = Field(default="", pattern=r"^[A-Za-z0-9-]{0,64}$")
    #: What is signed before the body when there is a time: `{timestamp}.` or `v0:{timestamp}:`.
    signed_prefix: str = Field(default="{timestamp}.", max_length=64)
    tolerance_seconds: int = Field(default=TOLERANCE_SECONDS, ge=1, le=86_400)


#: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
GITHUB = HmacOptions(header="x-hub-signature-256", prefix="sha256=")
#: https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads
META = GITHUB
#: https://api.slack.com/authentication/verifying-requests-from-slack
SLACK = HmacOptions(
    header="x-slack-signature",
    prefix="v0=",
    timestamp_header="x-slack-request-timestamp",
    signed_prefix="v0:{timestamp}:",
)
#: https://developers.zoom.us/docs/api/webhooks/#verify-with-zooms-header
ZOOM = HmacOptions(
    header="x-zm-signature", prefix="v0=", timestamp_header="x-zm-request-timestamp", signed_prefix="v0:{timestamp}:"
)


def verify(
    body: bytes, headers: Mapping[str, str], secrets: Sequence[str], now: datetime, options: HmacOptions
) -> bool:
    """True when a signature by one of the secrets stands where `options` says, and is fresh where it has a time."""
    signed = body
    if options.timestamp_header:
        stamp = header(headers, options.timestamp_header)
        if not is_fresh(unix_seconds(stamp), now, options.tolerance_seconds):
            return False
        signed = text_bytes(options.signed_prefix.replace("{timestamp}", stamp)) + body
    given = [
        text_bytes(part.strip()[len(options.prefix) :])
        for part in header(headers, options.header).split(",")
        if part.strip().startswith(options.prefix)
    ]
    return any_equal((_written(secret, signed, options) for secret in secrets if secret), given)


def _written(secret: str, signed: bytes, options: HmacOptions) -> bytes:
    digest = hmac.digest(text_bytes(secret), signed, "sha256")
    return digest.hex().encode() if options.encoding == "hex" else base64.b64encode(digest)
