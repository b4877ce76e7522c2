"""Audits whether what the vendors hold agrees with what the wedding says. The judge of the long runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos_stage import Story
from wedsync.domain.plans.actions import ACTIONS
from wedsync.domain.vendors.manifest import Manifest
from wedsync.kit.standin import LedgerEntry

Held = Sequence[tuple[str, LedgerEntry]]
#: The ledger speaks of effects; these operations make none of their own.
_SILENT = frozenset({"create_intent", "create_order", "confirm"})


@dataclass
class Verdict:
    """Findings of an audit."""

    duplicates: list[str] = field(default_factory=list)
    unaccounted: list[str] = field(default_factory=list)
    #: A status that the story does not explain.
    unexplained: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Add another verdict's findings."""
        self.duplicates += other.duplicates
        self.unaccounted += other.unaccounted
        self.unexplained += other.unexplained

    def stuck(self, what: str) -> bool:
        """Note that a wedding did not settle, if so."""
        self.unexplained += [what] if what else []
        return bool(what)

    @property
    def all(self) -> list[str]:
        """List every violation."""
        return [*self.duplicates, *self.unaccounted, *self.unexplained]


def audit(story: Story, held: Held, rechecks: Collection[str], manifests: dict[str, Manifest]) -> Verdict:
    """Compare a settled wedding with every vendor's ledger."""
    verdict = Verdict()
    for step_id, step in story.steps.items():
        mine = [(vendor, entry) for vendor, entry in held if entry.step_id == step_id]
        if ACTIONS[step.action].kind == "message":
            _message(verdict, story, step, mine)
        else:
            _exact(verdict, story, step, mine, step_id in rechecks, manifests)
    strangers = [entry.object_id for _, entry in held if entry.step_id not in story.steps]
    verdict.unaccounted += [f"{story.id}: {object_id} belongs to no step" for object_id in strangers]
    return verdict


def _exact(
    verdict: Verdict, story: Story, step: Any, mine: Held, is_rechecked: bool, manifests: dict[str, Manifest]
) -> None:
    """Check what can be undone: at most one vendor holds it, once, and somebody answers for it."""
    name = f"{story.number} {step.step_id} ({step.status})"
    active = [(vendor, entry) for vendor, entry in mine if entry.state == "active"]
    counts = Counter((vendor, entry.operation) for vendor, entry in active)
    holders = {vendor for vendor, _ in active}
    verdict.duplicates += [f"{name}: {n} x {what}" for what, n in counts.items() if n > 1]
    if len(holders) > 1 and not is_rechecked:
        verdict.duplicates.append(f"{name}: held by {sorted(holders)}")
    undo = step.compensation["status"] if step.compensation else None
    stands = step.status in ("succeeded", "waiting", "held") and undo in (None, "needs_attention")
    if active and not stands and undo != "needs_attention" and not is_rechecked:
        verdict.unaccounted.append(f"{name}: {dict(counts)} with undo {undo}")
    if step.status == "succeeded" and undo is None:
        spec = manifests[step.vendor].action(step.action)
        wanted = {(step.vendor, one.name) for one in spec.operations if one.name not in _SILENT} if spec else set()
        if wanted - set(counts):
            verdict.unaccounted.append(f"{name}: says done, but {sorted(wanted - set(counts))} is missing")


def _message(verdict: Verdict, story: Story, step: Any, mine: Held) -> None:
    """Check what can't be unsent: once, and once more as a counter-message."""
    name = f"{story.number} {step.step_id} ({step.status})"
    undo = step.compensation["status"] if step.compensation else None
    counter = 1 if undo in ("undone", "needs_attention") else 0
    if len(mine) > 1 + counter:
        verdict.duplicates.append(f"{name}: sent {len(mine)} times with undo {undo}")
    if step.status == "succeeded" and len(mine) < 1 + (undo == "undone"):
        verdict.unaccounted.append(f"{name}: says sent, but {len(mine)} were, with undo {undo}")
    if mine and step.status in ("pending", "scheduled", "skipped"):
        verdict.unaccounted.append(f"{name}: sent, but nobody says so")
