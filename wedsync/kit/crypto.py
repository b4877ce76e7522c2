"""Keep secrets and seal bytes: AES-256-GCM with named keys, API keys as HMACs, signed links that expire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wedsync.domain.errors import InvalidInput

API_KEY_PREFIX = "wsk_"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LINK_DOMAIN = b"wedsync-link-v1\x00"


class Keyring:
    """Named 256-bit AES keys: the first seals, all open."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise InvalidInput("no encryption key is given", field="codec_keys")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        #: The key that seals.
        self.active_id = next(iter(keys))

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read `id:hex,id:hex`; raises InvalidInput (never quoting a key) for anything else."""
        keys: dict[str, bytes] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key_id, _, digits = part.partition(":")
            try:
                key = bytes.fromhex(digits)
            except ValueError:
                key = b""
            if not key_id or len(key_id) > 255 or not key_id.isascii() or len(key) != 32:
                raise InvalidInput("an encryption key must be written id:64 hexadecimal digits", field="codec_keys")
            if key_id in keys:
                raise InvalidInput(f"the encryption key id {key_id} is given twice", field="codec_keys")
            keys[key_id] = key
        return cls(keys)

    def encrypt(self, plain: bytes, aad: bytes) -> tuple[str, bytes]:
        """Return `(key id, nonce + ciphertext + tag)` by the active key and a random 96-bit nonce (NIST SP 800-38D)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self.active_id, nonce + self._ciphers[self.active_id].encrypt(nonce, plain, aad)

    def decrypt(self, key_id: str, sealed: bytes, aad: bytes) -> bytes:
        """Undo `encrypt`; raises InvalidInput with reason `unknown_key` or `tampered`."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise InvalidInput(
                f"no encryption key with the id {key_id!r} is configured: add it to WEDSYNC_CODEC_KEYS",
                field="codec_keys",
                reason="unknown_key",
            )
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise InvalidInput("the sealed bytes are too short", reason="tampered")
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], aad)
        except InvalidTag:
            raise InvalidInput(
                f"the sealed bytes do not open with the key {key_id!r} here: other key, other place, or altered",
                reason="tampered",
            ) from None

    def seal(self, plain: bytes, *, tenant: str, row: str) -> bytes:
        """Seal bytes for storage, bound to their tenant and row: `len(id), id, nonce, ciphertext, tag`."""
        key_id, sealed = self.encrypt(plain, _place(tenant, row))
        name = key_id.encode()
        return bytes([len(name)]) + name + sealed

    def open(self, blob: bytes, *, tenant: str, row: str) -> bytes:
        """Undo `seal`; raises InvalidInput when the key is unknown, the bytes are altered or belong elsewhere."""
        if not blob or len(blob) < 1 + blob[0]:
            raise InvalidInput("the sealed bytes are too short", reason="tampered")
        name_end = 1 + blob[0]
        key_id = blob[1:name_end].decode("ascii", "replace")
        return self.decrypt(key_id, blob[name_end:], _place(tenant, row))


def _place(tenant: str, row: str) -> bytes:
    # Length-prefixed, so that no other (tenant, row) gives the same bytes.
    return b"".join(len(part).to_bytes(4, "big") + part for part in (tenant.encode(), row.encode()))


def new_api_key() -> str:
    """Make an API key: `wsk_` and 256 random bits in URL-safe base64. Shown once, never stored."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def hash_api_key(key: str, pepper: str) -> bytes:
    """Return the HMAC-SHA256 (32 bytes) of a whole API key under the pepper, by which keys are stored and found."""
    return hmac.new(pepper.encode(), key.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def same(one: bytes | str, other: bytes | str) -> bool:
    """Tell whether two secrets are equal, in constant time."""
    return hmac.compare_digest(_as_bytes(one), _as_bytes(other))


def _as_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def sign_link(payload: Mapping[str, Any], secret: str, expires_at: datetime) -> str:
    """Sign a URL-safe token that carries `payload` (JSON, readable by the holder) until `expires_at`."""
    body = json.dumps(
        {"p": dict(payload), "x": int(expires_at.timestamp())},
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    return f"{_b64(body)}.{_b64(_link_mac(body, secret))}"


def open_link(token: str, secret: str) -> tuple[dict[str, Any], datetime]:
    """Return the payload of a link token and when it expires, which the caller judges.

    Raises InvalidInput with reason `link_invalid`.
    """
    head, _, tail = token.partition(".")
    try:
        body, mac = _unb64(head), _unb64(tail)
    except ValueError:
        raise InvalidInput("the link is not valid", reason="link_invalid") from None
    if not same(mac, _link_mac(body, secret)):
        raise InvalidInput("the link is not valid", reason="link_invalid")
    content = json.loads(body)
    payload: dict[str, Any] = content["p"]
    return payload, datetime.fromtimestamp(content["x"], UTC)


def _link_mac(body: bytes, secret: str) -> bytes:
    return hmac.new(secret.encode(), _LINK_DOMAIN + body, hashlib.sha256).digest()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
