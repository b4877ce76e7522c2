"""Helpers that migrations share: roles, grants and row-level security."""

from __future__ import annotations

from pathlib import Path

from alembic import op

_SQL = Path(__file__).parent / "sql"

APP = "wedsync_app"
SYSTEM = "wedsync_system"

# Roles belong to the cluster, so another database's migration may be making them at this moment.
_ENSURE_ROLES = f"""
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SYSTEM}') THEN
    BEGIN
      CREATE ROLE {SYSTEM} NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP}') THEN
    BEGIN
      CREATE ROLE {APP} LOGIN NOINHERIT;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END IF;
  IF NOT pg_has_role('{APP}', '{SYSTEM}', 'MEMBER') THEN
    BEGIN
      GRANT {SYSTEM} TO {APP};
    EXCEPTION WHEN unique_violation OR internal_error THEN
      IF NOT pg_has_role('{APP}', '{SYSTEM}', 'MEMBER') THEN RAISE; END IF;
    END;
  END IF;
  -- An owner who is no superuser must be able to take the role too, for a laptop's single login.
  IF NOT pg_has_role(current_user, '{APP}', 'MEMBER') THEN
    EXECUTE format('GRANT {APP} TO %I', current_user);
  END IF;
END
$$
"""  # noqa: S608 - names of our own


def ensure_roles() -> None:
    """Create `wedsync_app` (may log in, inherits nothing) and `wedsync_system` where they are missing."""
    op.execute(_ENSURE_ROLES)


def grant(table: str, app: str, system: str) -> None:
    """Grant the two roles what they need on `table`, and no more; an empty text grants nothing."""
    op.execute(f"REVOKE ALL ON {table} FROM PUBLIC")
    if app:
        op.execute(f"GRANT {app} ON {table} TO {APP}")
    if system:
        op.execute(f"GRANT {system} ON {table} TO {SYSTEM}")


def isolate(table: str, column: str = "organization_id") -> None:
    """Bind `wedsync_app` to the rows of the session's organization; `wedsync_system` sees all; the owner sees none.

    With no organization set the comparison is never true.
    """
    # The sub-select is evaluated once a statement, not once a row.
    own = f"{column} = (SELECT current_setting('wedsync.organization_id', true))"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_rows ON {table} TO {APP} USING ({own}) WITH CHECK ({own})")
    op.execute(f"CREATE POLICY all_rows ON {table} TO {SYSTEM} USING (true) WITH CHECK (true)")


def publish(table: str) -> None:
    """Open a platform table: `wedsync_app` reads all, `wedsync_system` does all, the owner sees none."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY readable ON {table} FOR SELECT TO {APP} USING (true)")
    op.execute(f"CREATE POLICY all_rows ON {table} TO {SYSTEM} USING (true) WITH CHECK (true)")


def create_function(name: str, signature: str, *, app: bool) -> None:
    """Create the function of `sql/{name}.sql`, owned by `wedsync_system`; with `app` that role may call it, too."""
    op.execute((_SQL / f"{name}.sql").read_text(encoding="utf-8"))
    op.execute(f"REVOKE ALL ON FUNCTION {name}({signature}) FROM PUBLIC")
    if app:
        op.execute(f"GRANT EXECUTE ON FUNCTION {name}({signature}) TO {APP}")
    # A function's new owner must be able to create one in its schema: for this moment only.
    op.execute(f"GRANT CREATE ON SCHEMA public TO {SYSTEM}")
    op.execute(f"ALTER FUNCTION {name}({signature}) OWNER TO {SYSTEM}")
    op.execute(f"REVOKE CREATE ON SCHEMA public FROM {SYSTEM}")


def drop_function(name: str, signature: str) -> None:
    """Drop a function of `create_function`, as its owner."""
    op.execute(f"SET LOCAL ROLE {SYSTEM}")
    op.execute(f"DROP FUNCTION {name}({signature})")
    op.execute("RESET ROLE")
