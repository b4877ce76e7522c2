"""Sets faults on a vendor and decides which of them hits a request."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["down", "slow", "throttle", "commit_then_drop", "refuse", "flap"]

#: Longer than any client waits.
DEFAULT_DELAY_MS = 15_000


#: Default share of the time that a vendor that flaps is down.
FLAP_SHARE = 0.5


def without_nulls(document: Any) -> Any:
    """Return an object without what is null in it, so that the defaults stand; anything else as it is."""
    return (
        {name: value for name, value in document.items() if value is not None}
        if isinstance(document, dict)
        else document
    )


class Fault(BaseModel):
    """A vendor's fault: body of `PUT /_sandbox/faults/{vendor}`.

    down: 503 with a page of HTML, no effect. slow: waits `delay_ms`, then goes on. throttle: 429 with `Retry-After`.
    commit_then_drop: takes effect, then the connection drops. refuse: the vendor's own refusal. flap: down or healthy
    by a seeded draw for each request. `seed` alone changes nothing of the other modes; with `probability` any of them
    hits by such a draw. Null stands for what is not said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    #: A route's name, an account's name, or `{account}.{operation}`; None: every request.
    operation: str | None = None
    wedding_id: str | None = None
    #: Only requests to `/{vendor}@{region}/...`; None: wherever they were sent to.
    region: str | None = None
    #: So many matching requests go through first.
    after: Annotated[int, Field(ge=0)] = 0
    #: Only so many are hit; None: all from then on.
    times: Annotated[int, Field(ge=1)] | None = None
    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = DEFAULT_DELAY_MS
    retry_after_seconds: Annotated[int, Field(ge=0, le=86_400)] = 1
    #: Of the draws, which then repeat from run to run; None: 0.
    seed: int | None = None
    #: The share of matching requests that a draw hits; None: half of them for flap, every one for the other modes.
    probability: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        return without_nulls(document)

    @property
    def share(self) -> float:
        """Return the share of matching requests that it hits."""
        if self.probability is not None:
            return self.probability
        return FLAP_SHARE if self.mode == "flap" else 1.0

    @property
    def name(self) -> tuple[str | None, ...]:
        """Return what identifies the fault among a vendor's: its mode and the requests that it concerns."""
        return (self.mode, self.operation, self.wedding_id, self.region)

    def concerns(self, sign: Sign) -> bool:
        """Tell whether the fault concerns such a request."""
        if self.wedding_id is not None and self.wedding_id != sign.wedding_id:
            return False
        if self.region is not None and self.region != sign.region:
            return False
        if self.operation is None:
            return True
        return self.operation in (sign.operation, sign.account, f"{sign.account}.{sign.operation}")


@dataclass(frozen=True)
class Sign:
    """Marks by which faults and the log know a request."""

    operation: str
    account: str
    wedding_id: str | None
    step_id: str | None
    #: Empty: the vendor's one address.
    region: str = ""


@dataclass
class _ActiveFault:
    fault: Fault
    seen: int = 0
    hits: int = 0

    def hit(self, sign: Sign) -> bool:
        fault = self.fault
        if not fault.concerns(sign):
            return False
        self.seen += 1
        if self.seen <= fault.after or (fault.times is not None and self.hits >= fault.times):
            return False
        if not self._drawn():
            return False
        self.hits += 1
        return True

    def give_back(self) -> None:
        """Uncount a request to which the fault could do nothing."""
        self.seen -= 1
        self.hits -= 1

    def _drawn(self) -> bool:
        # The draw hangs on the seed and the request's number alone, so that a run can be repeated.
        draw = random.Random(f"{self.fault.seed or 0}:{self.seen}").random()  # noqa: S311
        return draw < self.fault.share


@dataclass(frozen=True)
class Hit:
    """Result of the faults for one request."""

    delay_ms: int = 0
    fault: Fault | None = None
    active: _ActiveFault | None = None

    def spare(self) -> None:
        """Count neither for `after` nor for `times` a request that the vendor would not refuse."""
        if self.active is not None:
            self.active.give_back()


@dataclass
class FaultStore:
    """Standing faults, by vendor."""

    _active: dict[str, list[_ActiveFault]] = field(default_factory=dict)

    def put(self, vendor: str, fault: Fault) -> None:
        """Set `fault`; it replaces a fault of the same mode that concerns the same requests, and counts from zero."""
        kept = [one for one in self._active.get(vendor, []) if one.fault.name != fault.name]
        self._active[vendor] = [*kept, _ActiveFault(fault)]

    def clear(self, vendor: str | None = None) -> None:
        """Take away the faults of `vendor`, or all."""
        if vendor is None:
            self._active.clear()
        else:
            self._active.pop(vendor, None)

    def all(self) -> dict[str, list[Fault]]:
        """List the standing faults, in the order in which they were set."""
        return {vendor: [one.fault for one in active] for vendor, active in self._active.items() if active}

    def strike(self, vendor: str, sign: Sign) -> Hit:
        """Return what the faults do to this request: the delays add up, of the rest the first that hits counts."""
        delay_ms = 0
        for one in self._active.get(vendor, ()):
            if not one.hit(sign):
                continue
            if one.fault.mode != "slow":
                return Hit(delay_ms, one.fault, one)
            delay_ms += one.fault.delay_ms
        return Hit(delay_ms)
