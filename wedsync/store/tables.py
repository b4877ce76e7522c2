"""Every slice's tables, on one `metadata`: whoever needs them all (migrations, tests) imports it from here."""

from wedsync.store.access import tables as access
from wedsync.store.db.schema import metadata
from wedsync.store.health import tables as health
from wedsync.store.inbox import tables as inbox
from wedsync.store.incidents import tables as incidents
from wedsync.store.outbox import tables as outbox
from wedsync.store.quotas import tables as quotas
from wedsync.store.routing import tables as routing
from wedsync.store.versions import tables as versions
from wedsync.store.weddings import tables as weddings

__all__ = [
    "access",
    "health",
    "inbox",
    "incidents",
    "metadata",
    "outbox",
    "quotas",
    "routing",
    "versions",
    "weddings",
]
