"""Verify HMAC-SHA256 over the exact bytes in its many spellings: GitHub, Meta, Slack, Zoom, and configured ones."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

from wedsync.domain.inbox.source import HmacOptions
from wedsync.kit.signatures.read import any_equal, header, is_fresh, text_bytes, unix_seconds

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
    """Tell whether one of the secrets made the signature that `options` locate, and it is fresh where it has a time."""
    stamp = header(headers, options.timestamp_header) if options.timestamp_header else ""
    if options.timestamp_header and not is_fresh(unix_seconds(stamp), now, options.tolerance_seconds):
        return False
    signed = signed_bytes(body, headers, options)
    received = [
        text_bytes(part.strip()[len(options.prefix) :])
        for part in header(headers, options.header).split(",")
        if part.strip().startswith(options.prefix)
    ]
    return any_equal((_written(secret, signed, options) for secret in secrets if secret), received)


def signed_bytes(body: bytes, headers: Mapping[str, str], options: HmacOptions) -> bytes:
    """Return what the HMAC covers: the body, after its time where the scheme signs one."""
    if not options.timestamp_header:
        return body
    stamp = header(headers, options.timestamp_header)
    return text_bytes(options.signed_prefix.replace("{timestamp}", stamp)) + body


def _written(secret: str, signed: bytes, options: HmacOptions) -> bytes:
    digest = hmac.digest(text_bytes(secret), signed, "sha256")
    return digest.hex().encode() if options.encoding == "hex" else base64.b64encode(digest)
