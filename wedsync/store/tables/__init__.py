"""Tables, one module a slice, all on one `metadata`."""

from wedsync.store.tables import access, notifications, outgoing, quotas, routing, versions, webhooks, weddings
from wedsync.store.tables.base import metadata

__all__ = ["access", "metadata", "notifications", "outgoing", "quotas", "routing", "versions", "webhooks", "weddings"]
