"""Seeds faults for one wedding: the same seed sets the same faults, and they draw the same way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos_sandbox import WatchedSandbox

#: What each step's vendors are asked to do.
WRITES: dict[str, tuple[tuple[str, str], ...]] = {
    "venue": (("generic", "request"), ("generic", "confirm"), ("generic", "cancel")),
    "photos": (("vsco", "create_job"), ("vsco", "add_event"), ("vsco", "delete_event"), ("vsco", "delete_job")),
    "deposit": (
        ("stripe", "create_intent"),
        ("stripe", "confirm_intent"),
        ("stripe", "release_payment"),
        ("paypal", "create_order"),
        ("paypal", "capture_order"),
        ("paypal", "release_payment"),
    ),
    "diary": (("google_calendar", "insert_event"), ("google_calendar", "delete_event")),
    "text": (("twilio", "send_message"), ("vonage", "send_sms")),
    "letter": (("resend", "send_email"),),
    "bulletin": (("sendgrid", "send_mail"),),
}
_TRANSIENT = ("down", "throttle", "slow", "flap", "commit_then_drop")


@dataclass
class Faults:
    """Faults of one wedding."""

    seed: int
    by_vendor: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, vendor: str, **fault: Any) -> None:
        """Add one more."""
        self.by_vendor.append((vendor, fault))

    async def put(self, sandbox: WatchedSandbox, wedding_id: str) -> None:
        """Set the faults for a wedding."""
        for vendor, fault in self.by_vendor:
            await sandbox.faults(vendor, wedding_id=wedding_id, **fault)


def ambiguity(seed: int) -> Faults:
    """Lose answers after the effect, some for good; at times the vendor is then down, or refuses."""
    draws, faults = random.Random(f"ambiguity {seed}"), Faults(seed)
    for step_id, writes in WRITES.items():
        for vendor, operation in writes:
            if draws.random() < 0.5:
                probability = draws.choice((0.4, 0.7, 1.0))
                times = draws.choice((1, 2, 4))
                faults.add(
                    vendor,
                    mode="commit_then_drop",
                    operation=operation,
                    seed=seed,
                    probability=probability,
                    times=times,
                )
        if step_id == "deposit" and draws.random() < 0.5:
            _trouble_with_the_deposit(draws, faults)
    if draws.random() < 0.15:
        faults.add("google_calendar", mode="refuse", operation="insert_event")
    return faults


def _trouble_with_the_deposit(draws: random.Random, faults: Faults) -> None:
    """Choose the case in which a second payment vendor stands ready and must, or must not, be asked."""
    match draws.choice(("declined", "down", "lost and down", "lost for good")):
        case "declined":
            faults.add("stripe", mode="refuse", operation="confirm_intent")
        case "down":
            faults.add("stripe", mode="down", operation="create_intent", times=6)
        case "lost and down":
            faults.add("stripe", mode="down", operation="confirm_intent", after=1, times=6)
        case _:
            faults.by_vendor[:] = [one for one in faults.by_vendor if one[1].get("operation") != "confirm_intent"]
            faults.add("stripe", mode="commit_then_drop", operation="confirm_intent")


def transient(seed: int) -> Faults:
    """Set trouble that passes, at about every third call."""
    draws, faults = random.Random(f"transient {seed}"), Faults(seed)
    for writes in WRITES.values():
        for vendor, operation in writes:
            if draws.random() < 0.35:
                _transient_fault(draws, faults, seed, vendor, operation)
    return faults


def _transient_fault(draws: random.Random, faults: Faults, seed: int, vendor: str, operation: str) -> None:
    mode = draws.choice(_TRANSIENT if vendor != "vonage" else _TRANSIENT[:-1])
    fault: dict[str, Any] = {"mode": mode, "operation": operation, "times": draws.randint(1, 3)}
    match mode:
        case "slow":
            fault["delay_ms"] = draws.randrange(100, 1500)
        case "throttle":
            fault["retry_after_seconds"] = draws.randint(1, 2)
        case "flap":
            fault |= {"seed": seed, "probability": 0.5, "times": 5}
    faults.add(vendor, **fault)
