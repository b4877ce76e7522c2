"""Finds free ports on the loopback and remembers them, so that addresses stay the same over restarts."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
#: Ports that this process keeps for its stacks, by their lock's file descriptor; the system frees them at its end.
_reserved: dict[int, int] = {}


def reserve(port: int) -> bool:
    """Keep `port` for this process's stacks; False when another process's stack has it.

    A port is chosen seconds before its program listens: without this, two stacks that start at once choose the same.
    """
    if port in _reserved:
        return True
    folder = Path(tempfile.gettempdir()) / f"wedsync-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    _reserved[port] = lock
    return True


def is_free(port: int, host: str = HOST) -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class PortRegistry:
    """Ports by name, kept in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._ports: dict[str, int] = {str(k): int(v) for k, v in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._ports = {}

    def acquire(self, name: str, preferred: int = 0) -> int:
        """Return the port of `name`: the remembered one, else `preferred`, else any, whichever is free first."""
        taken = {port for other, port in self._ports.items() if other != name}
        for port in (self._ports.get(name, 0), preferred):
            if port and port not in taken and is_free(port) and reserve(port):
                break
        else:
            port = free_port()
            while port in taken or not reserve(port):
                port = free_port()
        self._ports[name] = port
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._ports, indent=2, sort_keys=True) + "\n")
        return port
