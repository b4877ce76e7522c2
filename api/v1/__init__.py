"""Version 1 of the REST API: every endpoint needs an API key, except those of signed links."""

from __future__ import annotations

from fastapi import APIRouter

from api.v1 import (
    audit,
    events,
    inbox,
    inbox_sources,
    incidents,
    outbox_deliveries,
    outbox_subscriptions,
    plans,
    proxy,
    quotas,
    routing,
    transactions,
    vendor_links,
    versions,
    weddings,
)
from wedsync.http.deps import authenticated

router = APIRouter(prefix="/api/v1")
for module in (
    plans,
    weddings,
    transactions,
    events,
    outbox_subscriptions,
    outbox_deliveries,
    inbox_sources,
    inbox,
    routing,
    versions,
    quotas,
    incidents,
    proxy,
    audit,
):
    router.include_router(module.router, dependencies=authenticated)
# A signed link is its own key.
router.include_router(vendor_links.router)
#: Outside `/api/v1`, where other tools expect it.
health_router = APIRouter()
health_router.include_router(routing.health_router, dependencies=authenticated)
