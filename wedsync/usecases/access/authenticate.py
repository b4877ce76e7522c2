"""Find out whose API key a request carries."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from wedsync.domain.access.principal import Principal, Unauthenticated
from wedsync.kit.crypto import hash_api_key
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database

#: A process trusts a known key for so long without a read: a revoked one dies within that time.
KNOWN_SECONDS = 30.0
#: A process refuses an unknown key for so long without a read.
UNKNOWN_SECONDS = 2.0
_MOST_KEPT = 10_000
_LONGEST_KEY = 200


class KeyCache:
    """Keys that were read lately, by their HMACs; the oldest goes first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[bytes, tuple[float, Principal | None]] = OrderedDict()

    def get(self, key_hmac: bytes) -> tuple[bool, Principal | None]:
        """Return `(is known, principal)`."""
        until, principal = self._found.get(key_hmac, (0.0, None))
        return self._clock() < until, principal

    def put(self, key_hmac: bytes, principal: Principal | None) -> None:
        """Remember the principal for a while."""
        life = UNKNOWN_SECONDS if principal is None else KNOWN_SECONDS
        self._found[key_hmac] = (self._clock() + life, principal)
        self._found.move_to_end(key_hmac)
        if len(self._found) > _MOST_KEPT:
            self._found.popitem(last=False)


async def authenticate(db: Database, key: str, pepper: str, cache: KeyCache | None = None) -> Principal:
    """Return the principal of an API key; raises Unauthenticated, StoreUnavailable."""
    if not 0 < len(key) <= _LONGEST_KEY:
        raise Unauthenticated("the API key is not known")
    key_hmac = hash_api_key(key, pepper)
    is_known, principal = cache.get(key_hmac) if cache is not None else (False, None)
    if not is_known:
        async with db.system() as conn:
            principal = await access.find_key(conn, key_hmac)
        if cache is not None:
            cache.put(key_hmac, principal)
    if principal is None:
        raise Unauthenticated("the API key is not known")
    return principal
