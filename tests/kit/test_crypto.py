"""Sealed bytes, API keys, links."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.kit import crypto
from wedsync.kit.crypto import Keyring

OLD = "old:" + "11" * 32
NEW = "new:" + "22" * 32
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
names = st.text(max_size=20)


@given(st.binary(max_size=200), names, names)
def test_sealed_bytes_open_in_their_place(plain: bytes, tenant: str, row: str) -> None:
    ring = Keyring.parse(NEW)
    assert ring.open(ring.seal(plain, tenant=tenant, row=row), tenant=tenant, row=row) == plain


@given(names, names, names, names)
def test_sealed_bytes_open_nowhere_else(tenant: str, row: str, other_tenant: str, other_row: str) -> None:
    ring = Keyring.parse(NEW)
    sealed = ring.seal(b"guest list", tenant=tenant, row=row)
    if (tenant, row) != (other_tenant, other_row):
        with pytest.raises(InvalidInput) as caught:
            ring.open(sealed, tenant=other_tenant, row=other_row)
        assert caught.value.reason == "tampered"


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_altered_byte_is_noticed(position: int, flip: int) -> None:
    ring = Keyring.parse(NEW)
    sealed = bytearray(ring.seal(b"guest list", tenant="t", row="r"))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(InvalidInput):
        ring.open(bytes(sealed), tenant="t", row="r")


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused_as_invalid_input(blob: bytes) -> None:
    with pytest.raises(InvalidInput):
        Keyring.parse(NEW).open(blob, tenant="t", row="r")


def test_an_old_key_still_opens_after_a_rotation_and_the_new_one_seals() -> None:
    sealed = Keyring.parse(OLD).seal(b"x", tenant="t", row="r")
    rotated = Keyring.parse(f"{NEW}, {OLD}")
    assert rotated.open(sealed, tenant="t", row="r") == b"x"
    assert rotated.active_id == "new"
    with pytest.raises(InvalidInput, match="'old'") as caught:
        Keyring.parse(NEW).open(sealed, tenant="t", row="r")
    assert caught.value.reason == "unknown_key"


def test_the_same_bytes_are_never_sealed_alike() -> None:
    ring = Keyring.parse(NEW)
    assert len({ring.seal(b"x", tenant="t", row="r") for _ in range(50)}) == 50


@pytest.mark.parametrize("text", ["", "a", "a:", ":" + "11" * 32, "a:zz", "a:" + "11" * 16, f"{OLD},{OLD}"])
def test_bad_key_lists_are_refused_without_quoting_a_key(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Keyring.parse(text)
    assert caught.value.field == "codec_keys"
    assert "1111" not in caught.value.detail


def test_api_keys_are_random_recognizable_and_kept_as_hmac() -> None:
    keys = {crypto.new_api_key() for _ in range(100)}
    assert len(keys) == 100
    key = keys.pop()
    assert key.startswith("wsk_")
    assert len(key) >= 40
    assert crypto.hash_api_key(key, "pepper") == hmac.new(b"pepper", key.encode(), hashlib.sha256).digest()
    assert crypto.hash_api_key(key, "other") != crypto.hash_api_key(key, "pepper")


@given(st.text())
def test_any_text_can_be_hashed_as_a_key(text: str) -> None:
    assert len(crypto.hash_api_key(text, "pepper")) == 32
    assert crypto.same(text, text)
    assert not crypto.same(text, text + "x")


payloads = st.dictionaries(names, st.none() | st.booleans() | st.integers() | st.text(max_size=30), max_size=5)


@given(payloads)
def test_a_link_carries_its_payload_and_when_it_expires(payload: dict[str, object]) -> None:
    token = crypto.sign_link(payload, "secret", NOW + timedelta(hours=1))
    assert crypto.open_link(token, "secret") == (payload, NOW + timedelta(hours=1))


def test_a_link_under_another_secret_or_altered_is_refused() -> None:
    token = crypto.sign_link({"step": "venue"}, "secret", NOW + timedelta(hours=1))
    body, _, mac = token.partition(".")
    forged = crypto.sign_link({"step": "other"}, "secret", NOW + timedelta(hours=1)).partition(".")[0]
    for bad, secret in ((token, "another"), (f"{forged}.{mac}", "secret"), (f"{body}.", "secret"), (body, "secret")):
        with pytest.raises(InvalidInput) as caught:
            crypto.open_link(bad, secret)
        assert caught.value.reason == "link_invalid"


@given(st.text())
def test_any_text_as_a_link_is_refused_as_invalid_input(token: str) -> None:
    with pytest.raises(InvalidInput):
        crypto.open_link(token, "secret")
