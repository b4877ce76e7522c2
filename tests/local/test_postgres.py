"""The embedded Postgres."""

from __future__ import annotations

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
