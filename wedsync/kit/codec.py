"""Encrypt with AES-256-GCM all that Temporal stores of a workflow: the payload codec.

The metadata of an encrypted payload names the key, so that old histories stay readable after a rotation. The
encodings are those of Temporal's own encryption samples; the remote protocol is the one of its UI and CLI
(https://docs.temporal.io/codec-server).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from wedsync.domain.errors import InvalidInput
from wedsync.kit.crypto import Keyring

ENCODING = b"binary/encrypted"
KEY_ID = "encryption-key-id"
COMPRESSION = "compression"
DEFLATE = b"deflate"
_AAD = b"wedsync-temporal-payload-v1"
#: A prefix of the associated data, so that the mark can be neither added nor removed.
_AAD_DEFLATED = _AAD + b"-deflate"
#: Histories are mostly JSON that repeats itself: longer ones are deflated first, at the fastest level.
_DEFLATE_FROM_BYTES = 512
#: Far above what Temporal accepts in one payload.
_MOST_BYTES = 64 * 1024 * 1024


class EncryptingCodec(PayloadCodec):
    """Encrypts every payload (inputs, results, memos, summaries, failures' attributes)."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Seal each payload under the active key with a nonce of its own."""
        return [self._encode_one(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open each payload; return one that is not encrypted as it is.

        Raises InvalidInput with reason `unknown_key` or `tampered`.
        """
        return [self._decode_one(payload) for payload in payloads]

    def _encode_one(self, payload: Payload) -> Payload:
        plain = payload.SerializeToString()
        if len(plain) < _DEFLATE_FROM_BYTES:
            key_id, sealed = self._keyring.encrypt(plain, _AAD)
            return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id.encode()}, data=sealed)
        key_id, sealed = self._keyring.encrypt(zlib.compress(plain, 1), _AAD_DEFLATED)
        return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id.encode(), COMPRESSION: DEFLATE}, data=sealed)

    def _decode_one(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        key_id = payload.metadata.get(KEY_ID, b"").decode("utf-8", "replace")
        is_deflated = payload.metadata.get(COMPRESSION) == DEFLATE
        plain = self._keyring.decrypt(key_id, payload.data, _AAD_DEFLATED if is_deflated else _AAD)
        try:
            return Payload.FromString(zlib.decompressobj().decompress(plain, _MOST_BYTES) if is_deflated else plain)
        except DecodeError:
            raise InvalidInput("the decrypted bytes are not a payload", reason="tampered") from None


def payloads_from_json(body: bytes) -> list[Payload]:
    """Read `{"payloads": [{"metadata": {name: base64}, "data": base64}]}`; raises InvalidInput."""
    try:
        return [_payload(entry) for entry in json.loads(body)["payloads"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidInput("the body is not a list of Temporal payloads", field="payloads") from None


def _payload(entry: dict[str, Any]) -> Payload:
    metadata = {name: _unb64(value) for name, value in (entry.get("metadata") or {}).items()}
    return Payload(metadata=metadata, data=_unb64(entry.get("data") or ""))


def _unb64(text: str) -> bytes:
    # Protobuf's JSON allows both alphabets and no padding.
    padded = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)


def payloads_to_json(payloads: Iterable[Payload]) -> bytes:
    """Write payloads as the remote codec protocol's JSON."""
    return MessageToJson(Payloads(payloads=payloads), indent=None).encode()


async def decode_payloads_json(codec: PayloadCodec, body: bytes) -> bytes:
    """Answer one `POST .../decode` of the remote codec protocol, JSON in and out.

    Raises InvalidInput for a malformed body, an unknown key or altered bytes.
    """
    return payloads_to_json(await codec.decode(payloads_from_json(body)))
