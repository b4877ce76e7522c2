"""Projections by one function, rows bound to their wedding's organization, transactions claimed by workflow runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.rules import create_function, drop_function

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TABLES = ("plans", "transactions", "steps", "external_refs", "wedding_events")
_KEY = "uq_weddings_organization_id_id"
_PAGE = "ix_weddings_page"
_PAIR = ["organization_id", "wedding_id"]
_CLAIM = "text, text, jsonb, timestamptz"


def upgrade() -> None:
    """Bind the rows, add the claim, create the functions."""
    op.create_unique_constraint(_KEY, "weddings", ["organization_id", "id"])
    op.drop_index(_PAGE, table_name="weddings")
    for table in _TABLES:
        op.drop_constraint(f"fk_{table}_organization_id_organizations", table, type_="foreignkey")
        op.drop_constraint(f"fk_{table}_wedding_id_weddings", table, type_="foreignkey")
        op.create_foreign_key(_name(table), table, "weddings", _PAIR, ["organization_id", "id"])
    op.add_column("transactions", sa.Column("run_id", sa.Text(), nullable=True))
    op.add_column("weddings", sa.Column("run_id", sa.Text(), nullable=True))
    op.add_column("weddings", sa.Column("run_epoch", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    create_function("claim_transaction", _CLAIM, app=False)
    create_function("write_projections", "jsonb", app=True)


def downgrade() -> None:
    """Undo it all."""
    drop_function("write_projections", "jsonb")
    drop_function("claim_transaction", _CLAIM)
    op.drop_column("weddings", "run_epoch")
    op.drop_column("weddings", "run_id")
    op.drop_column("transactions", "run_id")
    for table in _TABLES:
        op.drop_constraint(_name(table), table, type_="foreignkey")
        op.create_foreign_key(f"fk_{table}_wedding_id_weddings", table, "weddings", ["wedding_id"], ["id"])
        op.create_foreign_key(
            f"fk_{table}_organization_id_organizations", table, "organizations", ["organization_id"], ["id"]
        )
    op.create_index(_PAGE, "weddings", ["organization_id", "id"])
    op.drop_constraint(_KEY, "weddings", type_="unique")


def _name(table: str) -> str:
    return f"fk_{table}_organization_id_wedding_id_weddings"
