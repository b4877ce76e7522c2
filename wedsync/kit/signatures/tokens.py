"""Verify schemes without a signature: the source sends back with each message a secret that we gave it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wedsync.kit.signatures.read import any_equal, header, text_bytes


def _is_known(token: str, secrets: Sequence[str]) -> bool:
    return any_equal((text_bytes(secret) for secret in secrets if secret), [text_bytes(token)])


def google_channel(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether `X-Goog-Channel-Token` is one of the secrets; channel and message number reveal a replay.

    https://developers.google.com/workspace/calendar/api/guides/push
    """
    return _is_known(header(headers, "x-goog-channel-token"), secrets)


def in_url(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether the URL's only `token` is one of the secrets, as for REST hooks without a signature (VSCO)."""
    try:
        tokens = parse_qs(urlsplit(url).query).get("token", [])
    except ValueError:
        return False
    return len(tokens) == 1 and _is_known(tokens[0], secrets)


def in_header(body: bytes, headers: Mapping[str, str], secrets: Sequence[str], name: str, prefix: str = "") -> bool:
    """Tell whether the header `name` is `prefix` and one of the secrets."""
    value = header(headers, name)
    return value.startswith(prefix) and _is_known(value[len(prefix) :], secrets)


def zapier(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether a secret comes as `X-API-Key`, as a bearer token, or as the URL's `token`: what a Zap can send.

    Zapier's webhooks are not signed: https://help.zapier.com/hc/en-us/articles/8496326446989
    """
    keyed = in_header(body, headers, secrets, "x-api-key")
    return keyed | in_header(body, headers, secrets, "authorization", "Bearer ") | in_url(body, {}, url, secrets, now)


def graph_client_state(
    body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime
) -> bool:
    """Tell whether every notification in the batch carries one of the secrets as `clientState`.

    https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks
    """
    states = [item.get("clientState") for item in graph_items(body)]
    return bool(states) and all(isinstance(state, str) and _is_known(state, secrets) for state in states)


def graph_items(body: bytes) -> list[dict[str, Any]]:
    """Return the notifications of a batch; none when the body is no batch."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    items = document.get("value") if isinstance(document, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return []
    return items
