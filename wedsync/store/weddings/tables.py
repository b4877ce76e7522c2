"""Weddings, their plans, transactions, steps, external references and the events that watchers follow.

`version` columns order writes: an older one never overwrites a newer one.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)
from sqlalchemy import text as sql

from wedsync.store.db.schema import document, instant, metadata, text


def _of_wedding() -> ForeignKeyConstraint:
    """Bind a row to the organization of its wedding."""
    return ForeignKeyConstraint(["organization_id", "wedding_id"], ["weddings.organization_id", "weddings.id"])


weddings = Table(
    "weddings",
    metadata,
    text("id", primary_key=True),
    text("organization_id", ForeignKey("organizations.id")),
    # The plan's own id.
    text("reference"),
    # planned (nothing requested yet) | active | cancelled | ended
    text("status"),
    # preparation | ceremony | reception | cleanup
    text("phase"),
    # normal | wedding_day
    text("mode"),
    # As written in the plan, with its zone; `ceremony_at` is the instant it was last resolved to.
    text("ceremony_local"),
    text("zone"),
    instant("ceremony_at"),
    Column("plan_version", Integer, nullable=False),
    # The newest id given out in `wedding_events`.
    Column("event_seq", BigInteger, nullable=False, server_default=sql("0")),
    Column("version", BigInteger, nullable=False, server_default=sql("0")),
    # The workflow run that writes the wedding's rows, and how often a run has taken it over: 1 for the first.
    text("run_id", nullable=True),
    Column("run_epoch", BigInteger, nullable=False, server_default=sql("0")),
    # The number by which a step's start orders requested transactions: 1, 2, 3, ...
    Column("transaction_seq", Integer, nullable=False, server_default=sql("0")),
    instant("created_at"),
    instant("updated_at"),
    instant("ended_at", nullable=True),
    UniqueConstraint("organization_id", "reference"),
    # For pages, and for the wedding's rows, which it binds to the wedding's organization.
    UniqueConstraint("organization_id", "id"),
)

plans = Table(
    "plans",
    metadata,
    text("organization_id"),
    text("wedding_id"),
    Column("version", Integer, nullable=False),
    # The plan as handed in (strict JSON form).
    document("body"),
    instant("created_at"),
    # The transaction that made it; NULL for the first.
    text("transaction_id", nullable=True),
    PrimaryKeyConstraint("wedding_id", "version"),
    _of_wedding(),
)

transactions = Table(
    "transactions",
    metadata,
    text("id", primary_key=True),
    text("organization_id"),
    text("wedding_id"),
    text("kind"),
    text("status"),
    # Ids of failed `continue` steps.
    document("gaps"),
    # The request, kind by kind (the undo's target, the shift's new time).
    document("request"),
    # The ids of the steps it covers, in plan order.
    document("step_ids"),
    # The workflow's result: written once.
    document("result", nullable=True),
    document("error", nullable=True),
    instant("requested_at"),
    # NULL until the wedding's workflow has accepted it; the sweep dispatches it again.
    instant("handed_off_at", nullable=True),
    # W3C trace context of the request.
    text("traceparent", nullable=True),
    instant("started_at", nullable=True),
    instant("ended_at", nullable=True),
    # The workflow run that claimed it.
    text("run_id", nullable=True),
    Column("version", BigInteger, nullable=False, server_default=sql("0")),
    Index("ix_transactions_wedding", "wedding_id", "id"),
    Index("ix_transactions_untold", "requested_at", postgresql_where=sql("handed_off_at IS NULL")),
    _of_wedding(),
)

steps = Table(
    "steps",
    metadata,
    text("organization_id"),
    text("wedding_id"),
    text("step_id"),
    # Its place in the plan.
    Column("position", Integer, nullable=False),
    # The transaction that last worked on it.
    text("transaction_id", nullable=True),
    text("service"),
    text("capability"),
    text("action"),
    text("status"),
    text("vendor", nullable=True),
    Column("fallback_used", Boolean, nullable=False, server_default=sql("false")),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    text("external_id", nullable=True),
    instant("due_at", nullable=True),
    instant("started_at", nullable=True),
    instant("ended_at", nullable=True),
    # {code, detail}
    document("error", nullable=True),
    # {status, attempts, detail}
    document("compensation", nullable=True),
    Column("version", BigInteger, nullable=False, server_default=sql("0")),
    PrimaryKeyConstraint("wedding_id", "step_id"),
    _of_wedding(),
)

external_refs = Table(
    "external_refs",
    metadata,
    text("organization_id"),
    text("vendor"),
    text("account"),
    text("object_id"),
    text("wedding_id", index=True),
    text("step_id"),
    text("transaction_id"),
    instant("created_at"),
    PrimaryKeyConstraint("vendor", "object_id", "wedding_id"),
    _of_wedding(),
)

wedding_events = Table(
    "wedding_events",
    metadata,
    text("organization_id"),
    text("wedding_id"),
    # 1, 2, 3, ... within the wedding, in commit order (the wedding's row is locked while one is given out).
    Column("id", BigInteger, nullable=False),
    # step | transaction | wedding
    text("type"),
    document("data"),
    instant("created_at"),
    PrimaryKeyConstraint("wedding_id", "id"),
    _of_wedding(),
)

read_answers = Table(
    "read_answers",
    metadata,
    text("organization_id", ForeignKey("organizations.id")),
    # `wedsync.domain.plans.when_down.question`: a digest of the action and its inputs.
    text("question"),
    text("vendor"),
    document("facts"),
    instant("answered_at"),
    PrimaryKeyConstraint("organization_id", "question"),
)
