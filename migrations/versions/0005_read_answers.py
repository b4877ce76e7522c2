"""The newest answers to reads, for the time when nobody can be asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import grant, isolate

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `read_answers`."""
    op.create_table(
        "read_answers",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("facts", JSONB(none_as_null=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "question", name="pk_read_answers"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_read_answers_organization_id_organizations"
        ),
    )
    isolate("read_answers")
    grant("read_answers", "SELECT, INSERT, UPDATE", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Drop it."""
    op.drop_table("read_answers")
