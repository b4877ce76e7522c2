"""Answer sources that prove an address before they post to it: `(status, content type, body)`, or None.

None means that the message is no handshake. Slack and Zoom sign theirs like every message, and get an answer
only then: Zoom's answer is itself an HMAC by the secret.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wedsync.kit.signatures.read import any_equal, text_bytes

Answer = tuple[int, str, bytes]
Handshake = Callable[[bytes, Mapping[str, str], Mapping[str, str], Sequence[str]], Answer | None]

#: No source sends longer tokens.
MAX_TOKEN_CHARACTERS = 4096


def graph(body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Sequence[str]) -> Answer | None:
    """Answer Microsoft Graph with the subscription's `validationToken` as plain text.

    https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks#notificationurl-validation
    """
    token = query.get("validationToken")
    if token is None or len(token) > MAX_TOKEN_CHARACTERS or body.strip():
        return None
    return 200, "text/plain", text_bytes(token)


def meta(body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Sequence[str]) -> Answer | None:
    """Answer Meta with `hub.challenge` when `hub.verify_token` is one of `secrets`, best no signing secret; else 403.

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests
    """
    if query.get("hub.mode") != "subscribe" or body.strip():
        return None
    token, challenge = query.get("hub.verify_token", ""), query.get("hub.challenge", "")
    known = any_equal((text_bytes(secret) for secret in secrets if secret), [text_bytes(token)])
    if not known or len(challenge) > MAX_TOKEN_CHARACTERS:
        return 403, "text/plain", b"the verify token is not ours"
    return 200, "text/plain", text_bytes(challenge)


def slack(body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Sequence[str]) -> Answer | None:
    """Answer Slack with the `challenge` of a `url_verification`. https://api.slack.com/events/url_verification"""
    document = _document(body)
    challenge = document.get("challenge")
    if document.get("type") != "url_verification" or not isinstance(challenge, str):
        return None
    return 200, "text/plain", text_bytes(challenge[:MAX_TOKEN_CHARACTERS])


def zoom(body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Sequence[str]) -> Answer | None:
    """Answer Zoom with the `plainToken` and its HMAC by the newest secret.

    https://developers.zoom.us/docs/api/webhooks/#validate-your-webhook-endpoint
    """
    document = _document(body)
    payload = document.get("payload")
    token = payload.get("plainToken") if isinstance(payload, dict) else None
    if document.get("event") != "endpoint.url_validation" or not isinstance(token, str) or not secrets:
        return None
    mac = hmac.digest(text_bytes(secrets[0]), text_bytes(token), "sha256").hex()
    answer = json.dumps({"plainToken": token, "encryptedToken": mac}, separators=(",", ":"))
    return 200, "application/json", answer.encode()


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
