"""Read the full result of an older transaction, which the wedding no longer carries."""

from __future__ import annotations

import json

from wedsync.domain.errors import NotFound
from wedsync.domain.weddings.ledger import TransactionResult
from wedsync.domain.weddings.messages import Message
from wedsync.store import transactions
from wedsync.store.session import Database


class ReadResult(Message):
    """Which transaction."""

    organization_id: str
    wedding_id: str
    transaction_id: str


async def read_result(db: Database, wanted: ReadResult) -> TransactionResult:
    """What the transaction's workflow returned; raises NotFound when it has not settled."""
    async with db.tenant(wanted.organization_id) as conn:
        found = await transactions.read_result(conn, wanted.wedding_id, wanted.transaction_id)
    if found is None:
        raise NotFound(f"transaction {wanted.transaction_id} has no result")
    return TransactionResult.model_validate_json(json.dumps(found))
