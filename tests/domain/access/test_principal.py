from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from wedsync.domain.access.principal import decode_cursor, encode_cursor, id_from_key, id_tail, once
from wedsync.domain.errors import InvalidInput

NOW = datetime(2027, 6, 1, 12, 30, 15, 123000, tzinfo=UTC)
KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


@given(KEYS, KEYS)
def test_an_id_is_a_ulid_of_its_moment_and_the_same_key_gives_the_same_tail(organization_id: str, key: str) -> None:
    made = id_from_key(organization_id, key, NOW)
    assert ULID.from_str(made).datetime == NOW
    later = id_from_key(organization_id, key, NOW + timedelta(days=1))
    assert made < later
    assert made[10:] == later[10:] == id_tail(organization_id, key)


def test_keys_of_other_organizations_give_other_ids() -> None:
    tails = {id_tail(organization, key) for organization in ("a", "ab") for key in ("k", "bk", "b\0k")}
    assert len(tails) == 6


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "a\n", "\x7f"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        once(key, "POST", "/", b"")
    assert caught.value.reason == "idempotency_key_invalid"


def test_bodies_are_the_same_when_their_values_are() -> None:
    base = once("k", "POST", "/p", b'{"a": 1, "b": [1, 2]}')
    assert once("k", "POST", "/p", b'{"b":[1,2],"a":1}') == base
    others = [
        once("k", "POST", "/p", b'{"a": 1, "b": [2, 1]}'),
        once("k", "POST", "/q", b'{"a": 1, "b": [1, 2]}'),
        once("k", "DELETE", "/p", b'{"a": 1, "b": [1, 2]}'),
        once("k", "POST", "/p", b"a: 1"),
        once("k", "POST", "/p", b""),
        once("k", "POST", "/p", b"[" * 100_000),
    ]
    assert len({other.fingerprint for other in (base, *others)}) == 7


@given(st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True))
def test_a_cursor_gives_its_place_back(last_id: str) -> None:
    assert decode_cursor(encode_cursor(last_id)) == last_id


@pytest.mark.parametrize(
    "cursor", ["", "x", "===", "djE6", "djI6eA", "é", encode_cursor("a b"), encode_cursor("x" * 65)]
)
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_cursor(cursor)
    assert caught.value.reason == "invalid_cursor"
