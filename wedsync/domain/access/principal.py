"""Say who sends a request, and when two requests are the same one. Values and pure rules."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue

from wedsync.domain.errors import InvalidInput, WedsyncError

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Visible ASCII, as RFC 8941 strings hold without escapes, at most 255 characters.
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Unauthenticated(WedsyncError):
    """No API key came with the request, or an unknown one."""

    code: ClassVar[str] = "unauthenticated"


class Principal(BaseModel):
    """An organization that a request acts for, and the key it came with."""

    model_config = ConfigDict(frozen=True)
    organization_id: str
    key_id: str

    @property
    def actor(self) -> str:
        """Name the actor for the audit log."""
        return f"key:{self.key_id}"


class Permission(StrEnum):
    """Something that not every key may do."""

    #: Change what belongs to the whole platform: services, quotas, versions, channels.
    OPERATE_PLATFORM = "operate_platform"


class Once(BaseModel):
    """A request that is carried out once: its `Idempotency-Key`, and a fingerprint of its content."""

    model_config = ConfigDict(frozen=True)
    key: str
    fingerprint: str


class Answer(BaseModel):
    """An answer to a request, replayed for the same key."""

    model_config = ConfigDict(frozen=True)
    status: int
    headers: dict[str, str] = {}
    body: JsonValue = None


def once(key: str, method: str, path: str, body: bytes) -> Once:
    """Identify the request; JSON bodies are equal when their values are. Raises InvalidInput for a bad key."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            "an Idempotency-Key is 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
            reason="idempotency_key_invalid",
        )
    try:
        canonical = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        canonical = body
    digest = hashlib.sha256(b"\0".join((method.encode(), path.encode(), canonical)))
    return Once(key=key, fingerprint=digest.hexdigest())


def id_tail(organization_id: str, key: str) -> str:
    """Return the last 16 characters of the id that a request with this key makes: 80 bits, always the same."""
    digest = hashlib.sha256(b"\0".join((b"wedsync-id-v1", organization_id.encode(), key.encode()))).digest()
    number = int.from_bytes(digest[:10], "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(75, -1, -5))


def id_from_key(organization_id: str, key: str, now: datetime) -> str:
    """Make a ULID: the time of `now`, then `id_tail`."""
    milliseconds = int(now.timestamp() * 1000)
    head = "".join(_CROCKFORD[(milliseconds >> shift) & 31] for shift in range(45, -1, -5))
    return head + id_tail(organization_id, key)


def encode_cursor(last_id: str) -> str:
    """Encode a place in a list as opaque text."""
    return base64.urlsafe_b64encode(f"v1:{last_id}".encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> str:
    """Return the id that `encode_cursor` got; raises InvalidInput(reason="invalid_cursor")."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        version, _, last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").partition(":")
    except ValueError:
        version, last_id = "", ""
    if version != "v1" or not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", last_id):
        raise InvalidInput("the cursor is not one that a list gave", field="cursor", reason="invalid_cursor")
    return last_id
