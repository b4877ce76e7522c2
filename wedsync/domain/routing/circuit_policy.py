"""Settings of a service's circuit breakers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wedsync.domain.value import Value


class CircuitPolicy(Value):
    """Thresholds and times by which a circuit opens and closes again."""

    window_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    #: Fewer calls in the window prove nothing.
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    #: A good answer that took so long counts as slow.
    slow_seconds: Annotated[float, Field(gt=0, le=600)] = 6.0
    slow_rate: Annotated[float, Field(gt=0, le=1)] = 0.8
    #: The first opening; each further one in a row lasts `open_growth` times as long, up to the cap.
    open_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    open_growth: Annotated[float, Field(ge=1, le=10)] = 2.0
    open_cap_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    #: How many calls a half-open circuit lets through.
    probes: Annotated[int, Field(ge=1, le=100)] = 3
    #: Percent of traffic at each stage on the way back; 100 follows.
    ramp: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (10, 50)
    ramp_step_seconds: Annotated[float, Field(gt=0, le=86_400)] = 15.0
    #: Percent of traffic at each stage of a drain; none follows.
    drain: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (50, 10)

    def on_wedding_day(self) -> CircuitPolicy:
        """Return the policy around a dependent wedding: it opens sooner and probes sooner. Never switched off."""
        return self.model_copy(
            update={
                "min_calls": max(1, self.min_calls // 2),
                "open_cap_seconds": min(self.open_cap_seconds, 3 * self.open_seconds),
            }
        )
