"""Reads the processes' clocks and sizes, and computes percentiles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import psutil


def family(pid: int) -> list[psutil.Process]:
    """List a process and its descendants (Postgres serves each connection by one)."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU used so far by each named process with its living descendants."""
    found = {}
    for name, pid in pids.items():
        total = 0.0
        for process in family(pid):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        found[name] = total
    return found


def main_thread_seconds(pid: int) -> float:
    """Return the CPU used so far by a process's main thread."""
    main = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
    return float(main.user_time + main.system_time)


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the CPU seconds between two readings."""
    return {name: after[name] - before[name] for name in after if name in before}


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process with its descendants."""
    return sum(process.memory_info().rss for process in family(pid))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def spread(values: Sequence[float]) -> float:
    """Return how far apart the values lie: (largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)
