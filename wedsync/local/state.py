"""Files that the embedded stack keeps in its state folder, beside the data of its servers.

`run.json` is for users and outside programs: it is there while the stack is ready. `supervisor.json` is ours: who
supervises and which children exist, so that nothing is left running when a supervisor was killed. `lock` is held for a
supervisor's life.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wedsync.domain.errors import Conflict
from wedsync.local.files import write_private
from wedsync.local.processes import Identity

Model = TypeVar("Model", bound=BaseModel)


class RunInfo(BaseModel):
    """Addresses of a ready stack. `pids` names the programs that this stack runs itself."""

    model_config = ConfigDict(frozen=True)
    api_url: str
    api_key: str
    organization_id: str
    temporal_address: str
    namespace: str
    temporal_ui_url: str
    database_url: str
    sandbox_url: str
    pids: dict[str, int]


class Supervision(BaseModel):
    """Identities of the supervisor and, by name, of its children."""

    model_config = ConfigDict(frozen=True)
    supervisor: Identity
    children: dict[str, Identity]


class LocalIdentity(BaseModel):
    """Key of the local organization: stored keys are HMACs, so the text is kept here, for this machine's user only."""

    model_config = ConfigDict(frozen=True)
    organization_id: str
    api_key: str


class StateDir:
    """State folder of one stack."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def logs(self) -> Path:
        """Return where the programs' output goes."""
        return self.path / "logs"

    def read_run(self) -> RunInfo | None:
        """Read `run.json`; None when it is not there or not ours."""
        return _read(self.path / "run.json", RunInfo)

    def write_run(self, run: RunInfo) -> None:
        """Replace `run.json` (0600)."""
        write_private(self.path / "run.json", run.model_dump_json(indent=2) + "\n")

    def remove_run(self) -> None:
        """Remove `run.json`."""
        (self.path / "run.json").unlink(missing_ok=True)

    def read_supervision(self) -> Supervision | None:
        """Read what the newest supervisor wrote; it may be dead."""
        return _read(self.path / "supervisor.json", Supervision)

    def write_supervision(self, supervision: Supervision) -> None:
        """Replace `supervisor.json`."""
        write_private(self.path / "supervisor.json", supervision.model_dump_json(indent=2) + "\n")

    def remove_supervision(self) -> None:
        """Remove `supervisor.json`."""
        (self.path / "supervisor.json").unlink(missing_ok=True)

    def read_identity(self) -> LocalIdentity | None:
        """Read the local organization and its key, from the first start on."""
        return _read(self.path / "identity.json", LocalIdentity)

    def write_identity(self, identity: LocalIdentity) -> None:
        """Keep the local organization and its key (0600)."""
        write_private(self.path / "identity.json", identity.model_dump_json(indent=2) + "\n")

    def lock(self) -> Lock:
        """Take the folder for one supervisor; raises Conflict when another one lives."""
        self.path.mkdir(parents=True, exist_ok=True)
        return Lock(self.path / "lock")

    def is_locked(self) -> bool:
        """Tell whether a supervisor lives."""
        if not self.path.is_dir():
            return False
        try:
            Lock(self.path / "lock").release()
        except Conflict:
            return True
        return False


def already_running(folder: Path) -> Conflict:
    """Build the error for a stack that has its state in `folder` already."""
    return Conflict(
        f"wedsync runs already in {folder}: use it, or end it with `wedsync down`", reason="already_running"
    )


class Lock:
    """An advisory lock on a file: the system lets go of it when its holder dies."""

    def __init__(self, path: Path) -> None:
        # Not inherited by children (PEP 446), so that it ends with the supervisor.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise already_running(path.parent) from None

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _read(path: Path, model: type[Model]) -> Model | None:
    try:
        return model.model_validate_json(path.read_text())
    except (OSError, ValidationError, ValueError):
        return None
