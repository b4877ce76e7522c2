"""Version 1 of the REST API: every endpoint needs an API key, except those of signed links."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import authenticated
from api.v1 import (
    audit,
    deliveries,
    events,
    gateway,
    inbox,
    notifications,
    plans,
    quotas,
    services,
    transactions,
    vendor_links,
    versions,
    webhook_sources,
    webhook_subscriptions,
    weddings,
)

router = APIRouter(prefix="/api/v1")
for module in (
    plans,
    weddings,
    transactions,
    events,
    webhook_subscriptions,
    deliveries,
    webhook_sources,
    inbox,
    services,
    versions,
    quotas,
    notifications,
    gateway,
    audit,
):
    router.include_router(module.router, dependencies=authenticated)
# A signed link is its own key.
router.include_router(vendor_links.router)
#: Outside `/api/v1`, where other tools expect it.
health_router = APIRouter()
health_router.include_router(services.health_router, dependencies=authenticated)
