"""Size of a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Size of each measure."""

    width: int
    rounds: int
    warm_up: int
    #: About how long one round of one contender takes.
    round_seconds: float
    #: No further set of rounds is begun after so long: a busy machine gets fewer rounds, not a longer run.
    rounds_within_seconds: float
    starts: int
    #: Weddings run with nothing beside them.
    alone: int
    sleeping: int
    sleeping_seconds: float
    calls: int


FULL = Size(
    width=50,
    rounds=5,
    warm_up=30,
    round_seconds=6,
    rounds_within_seconds=200,
    starts=80,
    alone=40,
    sleeping=1000,
    sleeping_seconds=300,
    calls=1000,
)
QUICK = Size(
    width=20,
    rounds=1,
    warm_up=10,
    round_seconds=3,
    rounds_within_seconds=10,
    starts=12,
    alone=5,
    sleeping=40,
    sleeping_seconds=12,
    calls=100,
)
