"""Vendors whose every answer a test decides: what the real ones do too seldom, or only after long waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from wedsync.domain.errors import (
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.health.messages import AT_CAPACITY
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.manifest import ActionSpec, AuthSpec, Manifest, OperationSpec
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account, VendorClient
from wedsync.vendors.registry import Registry, load_registry

#: down: not done, may work later. unknown: done or not, nobody knows. lost: done, and the answer was lost.
Answer = Literal[
    "ok", "down", "unknown", "lost", "reject", "unauthorized", "throttle", "crowded", "bug", "absent", "waiting"
]


@dataclass
class Puppet:
    """Answers to come, by wedding and operation, and what was asked."""

    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, str, Call]] = field(default_factory=list)
    effects: set[str] = field(default_factory=set)

    def will(self, wedding_id: str, operation: str, *answers: Answer) -> None:
        """Give the next calls of `operation`, `find`, `inspect` or `step.operation` these answers; then all is well."""
        self.answers[(wedding_id, operation)].extend(answers)

    def said(self, wedding_id: str) -> list[str]:
        """List `intent operation` of every call for the wedding, in order."""
        return [f"{intent} {call.operation}" for intent, _, call in self.asked if call.wedding_id == wedding_id]

    def calls(self, wedding_id: str, operation: str) -> list[Call]:
        """List the sent calls of an operation."""
        return [
            c
            for intent, _, c in self.asked
            if intent == "send" and (c.wedding_id, c.operation) == (wedding_id, operation)
        ]

    def answer(self, intent: str, call: Call) -> Answer:
        self.asked.append((intent, call.vendor, call))
        name = call.operation if intent == "send" else intent
        for key in (f"{call.step_id}.{name}", name):
            if waiting := self.answers[(call.wedding_id, key)]:
                return waiting.pop(0)
        return "ok"


def client_class(puppet: Puppet) -> type[VendorClient]:
    """Return a vendor's client that asks the puppet."""

    class Client:
        def __init__(self, http: VendorHttp, account: Account) -> None:
            pass

        async def send(self, call: Call) -> Effect:
            answer = puppet.answer("send", call)
            if answer in ("ok", "lost", "waiting"):
                puppet.effects.add(call.idempotency_key)
            _fail(answer, call)
            return _effect(answer, call)

        async def find(self, call: Call) -> Effect | None:
            answer = puppet.answer("find", call)
            if answer == "ok":
                answer = "ok" if call.idempotency_key in puppet.effects else "absent"
            _fail(answer, call)
            return None if answer == "absent" else _effect(answer, call)

        async def inspect(self, call: Call) -> Effect:
            answer = puppet.answer("look", call)
            _fail(answer, call)
            return _effect(answer, call)

    return cast("type[VendorClient]", Client)


def _effect(answer: Answer, call: Call) -> Effect:
    if answer == "absent":
        return Effect(state="absent")
    external_id = f"{call.vendor}-{call.reference[:8]}"
    facts: dict[str, Any] = {"booking_id": external_id, "reference": call.reference}
    return Effect(state="waiting" if answer == "waiting" else "done", external_id=external_id, facts=facts)


def _fail(answer: Answer, call: Call) -> None:
    vendor = call.vendor
    match answer:
        case "down":
            raise VendorUnavailable(f"{vendor} is down", vendor=vendor, status=503)
        case "unknown" | "lost":
            raise OutcomeUnknown(f"{vendor} gave no answer", vendor=vendor)
        case "reject":
            raise VendorRejected(f"{vendor} said no", vendor=vendor, reason="date_taken", status=409)
        case "unauthorized":
            raise NotAuthorized(f"{vendor} wants another key", vendor=vendor, status=401)
        case "throttle":
            raise VendorThrottled(f"{vendor} is busy", vendor=vendor, retry_after_seconds=1.0, status=429)
        case "crowded":
            raise VendorThrottled("no room here", vendor=vendor, retry_after_seconds=0.05, reason=AT_CAPACITY)
        case "bug":
            raise RuntimeError("a bug of our own")


def _manifest(name: str, spec: ActionSpec) -> Manifest:
    return Manifest(
        name=name,
        title=name,
        capabilities=(spec.name.partition(".")[0],),
        documentation_url="https://vendor.example.com",
        base_url="https://vendor.example.com",
        auth=AuthSpec(kind="none"),
        timeout_seconds=2.0,
        actions=(spec,),
    )


def _booking(**spec: Any) -> ActionSpec:
    release = OperationSpec(name="release")
    return ActionSpec(**{"name": "booking.request", "undo": "exact", "undo_operations": (release,), **spec})


_REPLAY, _FIND, _UNSAFE = (OperationSpec(name="reserve", on_unknown=kind) for kind in ("replay", "find", "unsafe"))
MANIFESTS: dict[str, Manifest] = {
    manifest.name: manifest
    for manifest in (
        _manifest("replayer", _booking(operations=(_REPLAY,), change_operations=(OperationSpec(name="move"),))),
        _manifest("finder", _booking(operations=(_FIND,))),
        _manifest("gambler", _booking(operations=(_UNSAFE,))),
        _manifest(
            "slowcoach",
            _booking(
                operations=(
                    OperationSpec(name="reserve", waits_for="booking.confirmed", refused_by=("booking.declined",)),
                    OperationSpec(name="finish"),
                )
            ),
        ),
        _manifest("harmless", _booking(operations=(OperationSpec(name="reserve", harmless=True),))),
        _manifest("paper", _booking(manual=True)),
        _manifest("half_paper", _booking(operations=(_REPLAY,), undo_operations=(), undo_manual=True)),
    )
}


class PuppetRegistry(Registry):
    """Registry of the installed vendors, and the puppet's."""

    def __init__(self, puppet: Puppet) -> None:
        installed: Mapping[str, Manifest] = load_registry().manifests
        super().__init__({**installed, **MANIFESTS})
        self._client = client_class(puppet)

    def client_class(self, name: str) -> type[VendorClient]:
        """Return the client of vendor `name`."""
        return self._client if name in MANIFESTS else super().client_class(name)
