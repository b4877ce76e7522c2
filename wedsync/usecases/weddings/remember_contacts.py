"""Keep the digests of a wedding's contacts, by which inbound events find the wedding."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.plans.plan import Plan
from wedsync.kit.contacts import contact_digest
from wedsync.store.inbox.tables import contact_refs


async def remember_contacts(
    conn: AsyncConnection, organization_id: str, wedding_id: str, plan: Plan, pepper: str, now: datetime
) -> None:
    """Write the digest of each phone and address in the plan; within `tenant()`."""
    rows: list[dict[str, Any]] = [
        {
            "organization_id": organization_id,
            "digest": digest,
            "wedding_id": wedding_id,
            "contact_id": contact.id,
            "created_at": now,
        }
        for contact in plan.wedding.contacts
        for text in (contact.phone, contact.email)
        if text and (digest := contact_digest(text, pepper)) is not None
    ]
    if rows:
        await conn.execute(upsert(contact_refs).values(rows).on_conflict_do_nothing())
