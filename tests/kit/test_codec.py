"""The payload codec and its remote protocol."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from wedsync.domain.errors import InvalidInput
from wedsync.kit.codec import EncryptingCodec, decode_payloads_json, payloads_from_json, payloads_to_json
from wedsync.kit.crypto import Keyring

CODEC = EncryptingCodec(Keyring.parse("k1:" + "ab" * 32))
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"Amelie & Noor"')


async def test_every_payload_comes_back_as_it_was() -> None:
    empty = Payload(metadata={"encoding": b"binary/null"})
    encoded = await CODEC.encode([PLAIN, empty])
    assert await CODEC.decode(encoded) == [PLAIN, empty]


async def test_nothing_of_a_payload_can_be_read_but_the_key_id() -> None:
    (encoded,) = await CODEC.encode([PLAIN])
    assert dict(encoded.metadata) == {"encoding": b"binary/encrypted", "encryption-key-id": b"k1"}
    assert b"Amelie" not in encoded.SerializeToString()
    assert b"json/plain" not in encoded.SerializeToString()


async def test_plain_payloads_pass_the_decoder_unchanged() -> None:
    assert await CODEC.decode([PLAIN]) == [PLAIN]


async def test_a_payload_under_an_unknown_key_names_the_key() -> None:
    encoded = await EncryptingCodec(Keyring.parse("gone:" + "cd" * 32)).encode([PLAIN])
    with pytest.raises(InvalidInput, match="'gone'") as caught:
        await CODEC.decode(encoded)
    assert caught.value.reason == "unknown_key"


async def test_an_altered_payload_is_refused() -> None:
    (encoded,) = await CODEC.encode([PLAIN])
    encoded.data = encoded.data[:-1] + bytes([encoded.data[-1] ^ 1])
    with pytest.raises(InvalidInput) as caught:
        await CODEC.decode([encoded])
    assert caught.value.reason == "tampered"


async def test_the_remote_protocol_speaks_base64_in_json() -> None:
    (encoded,) = await CODEC.encode([PLAIN])
    body = {
        "payloads": [
            {
                "metadata": {name: base64.b64encode(value).decode() for name, value in encoded.metadata.items()},
                "data": base64.b64encode(encoded.data).decode(),
            }
        ]
    }
    answer = json.loads(await decode_payloads_json(CODEC, json.dumps(body).encode()))
    assert answer == {
        "payloads": [
            {
                "metadata": {"encoding": base64.b64encode(b"json/plain").decode()},
                "data": base64.b64encode(PLAIN.data).decode(),
            }
        ]
    }
    sealed = await CODEC.encode(payloads_from_json(json.dumps(answer).encode()))
    again = await decode_payloads_json(CODEC, payloads_to_json(sealed))
    assert json.loads(again) == answer


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nonsense", b"\xff", b'{"payloads": 3}', b'{"payloads": [{"data": "%%%"}]}', b'{"payloads":' * 500],
)
async def test_a_malformed_body_is_refused_as_invalid_input(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        await decode_payloads_json(CODEC, body)


@given(st.binary(max_size=100))
async def test_any_bytes_are_answered_or_refused(body: bytes) -> None:
    try:
        answer = await decode_payloads_json(CODEC, body)
    except InvalidInput:
        return
    assert isinstance(json.loads(answer), dict)


async def test_a_long_payload_is_deflated_and_comes_back_as_it_was() -> None:
    long = Payload(metadata={"encoding": b"json/plain"}, data=b'["' + b"flowers and a quartet " * 500 + b'"]')
    (encoded,) = await CODEC.encode([long])
    assert encoded.metadata["compression"] == b"deflate"
    assert len(encoded.data) < len(long.data) / 10
    assert await CODEC.decode([encoded]) == [long]
    del encoded.metadata["compression"]
    with pytest.raises(InvalidInput) as caught:
        await CODEC.decode([encoded])
    assert caught.value.reason == "tampered"
