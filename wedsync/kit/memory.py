"""Tune Python's garbage collector for the programs that serve."""

from __future__ import annotations

import gc

#: New container objects between two young collections, and young ones between two older; Python's own: 700, 10, 10.
_THRESHOLDS = (5000, 20, 20)


def freeze_memory() -> None:
    """Spare the garbage collector, which stops everything else, from going through what is loaded and stays.

    Call it once a program serves. Measured: docs/benchmarks.md.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
