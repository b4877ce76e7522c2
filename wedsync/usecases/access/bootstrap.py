"""Create the local organization and its key, so that a laptop has somebody to act for."""

from __future__ import annotations

import re
from typing import NamedTuple

from wedsync.domain.errors import Conflict, InvalidInput
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import hash_api_key, new_api_key
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database

LOCAL_ORGANIZATION_ID = "local"
_KEY = re.compile(r"[\x21-\x7e]{8,200}")


class LocalAccess(NamedTuple):
    """A key that is known here only: the database stores its HMAC."""

    organization_id: str
    api_key: str


async def ensure_local_organization(db: Database, settings: Settings) -> LocalAccess:
    """Create the local organization with a key, or keep to `settings.api_key` when one is given; idempotent.

    A given key that is known is verified and kept, an unknown one becomes the local organization's. Raises
    InvalidInput outside the local environment or for a key of another shape, Conflict for a key of another
    organization, StoreUnavailable.
    """
    if not settings.is_local:
        raise InvalidInput("a local organization exists in WEDSYNC_ENVIRONMENT=local only", reason="not_local")
    key = settings.api_key.get_secret_value() or new_api_key()
    if not _KEY.fullmatch(key):
        raise InvalidInput("WEDSYNC_API_KEY is 8 to 200 visible ASCII characters", field="api_key")
    key_hmac = hash_api_key(key, settings.api_key_pepper.get_secret_value())
    now = utc_now()
    async with db.system() as conn:
        await access.add_organization(conn, LOCAL_ORGANIZATION_ID, "Local", now)
        await access.add_key(conn, LOCAL_ORGANIZATION_ID, new_id(), "local", key_hmac, now)
        principal = await access.find_key(conn, key_hmac)
    if principal is None or principal.organization_id != LOCAL_ORGANIZATION_ID:
        raise Conflict("WEDSYNC_API_KEY was revoked, or belongs to another organization", reason="key_taken")
    return LocalAccess(LOCAL_ORGANIZATION_ID, key)
