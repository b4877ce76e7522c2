"""List an organization's weddings, page by page."""

from __future__ import annotations

from wedsync.domain.access.principal import decode_cursor, encode_cursor
from wedsync.store.db.session import Database
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_wedding import View, WeddingSummary, summary_values


class WeddingPage(View):
    """A page, newest first; `next_cursor` requests what follows, None: there is no more."""

    data: tuple[WeddingSummary, ...]
    next_cursor: str | None


async def list_weddings(db: Database, organization_id: str, limit: int, cursor: str | None) -> WeddingPage:
    """Read one page; raises InvalidInput(reason="invalid_cursor")."""
    before = decode_cursor(cursor) if cursor else None
    (rows,) = await db.read(organization_id, store.paging(organization_id, limit + 1, before))
    shown = rows[:limit]
    return WeddingPage(
        data=tuple(WeddingSummary(**summary_values(row)) for row in shown),
        next_cursor=encode_cursor(shown[-1].id) if len(rows) > limit else None,
    )
