"""Make, seal, open and retire the signing secrets of a subscription."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter

from wedsync.domain.outbox.signing import SECRET_PREFIX
from wedsync.domain.value import Value
from wedsync.kit.crypto import Keyring

#: The most secrets that sign at once.
MOST_SECRETS = 5


class Secret(Value):
    """One signing secret; from `expires_at` on it no longer signs."""

    secret: str
    created_at: datetime
    expires_at: datetime | None = None


_many = TypeAdapter(tuple[Secret, ...])


def new_secret(now: datetime) -> Secret:
    """Make a secret: `whsec_` and 256 random bits in base64."""
    return Secret(secret=SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(), created_at=now)


def seal(keyring: Keyring, organization_id: str, subscription_id: str, held: Sequence[Secret]) -> bytes:
    """Seal the secrets for storage, bound to their subscription."""
    plain = json.dumps([item.model_dump(mode="json") for item in held]).encode()
    return keyring.seal(plain, tenant=organization_id, row=f"webhook_subscription:{subscription_id}")


def unseal(keyring: Keyring, organization_id: str, subscription_id: str, sealed: bytes) -> tuple[Secret, ...]:
    """Undo `seal`; raises InvalidInput."""
    plain = keyring.open(sealed, tenant=organization_id, row=f"webhook_subscription:{subscription_id}")
    return _many.validate_json(plain)


def active(held: Sequence[Secret], now: datetime) -> tuple[Secret, ...]:
    """List the secrets that sign now, the newest first."""
    signing = [item for item in held if item.expires_at is None or item.expires_at > now]
    return tuple(sorted(signing, key=lambda item: item.created_at, reverse=True))
