"""Model of the wedding plan as a planner writes it: version 1, strict, frozen.

Shape only. `wedsync.domain.plans.validate` checks what must hold between the parts (needs, references, times, what
a vendor can do).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Role = Literal[
    "photography", "videography", "catering", "venue", "planning", "music", "florals", "attire",
    "transport", "officiant", "stationery", "other",
]  # fmt: skip
Window = Literal["preparation", "ceremony", "reception", "cleanup"]
OnFailure = Literal["rollback", "hold", "continue"]
#: ISO 8601 duration (`PT2H`, `P3D`) or shorthand (`90m`, `48h`, `7d`, `2w`).
DurationText = Annotated[str, Field(pattern=r"^(P.+|\d+(s|m|h|d|w))$")]


class PlanModel(BaseModel):
    """Strict and frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Contact(PlanModel):
    """A person or business that vendors write to, call or charge."""

    id: Slug
    name: Annotated[str, Field(min_length=1, max_length=200)]
    email: str | None = None
    #: E.164, e.g. +390318125551.
    phone: str | None = None
    #: Payment instruments by vendor: a Stripe PaymentMethod id, a PayPal vault token.
    instruments: dict[str, str] = {}


class Ceremony(PlanModel):
    """Time and place of the ceremony, as the clock on the venue's wall shows it."""

    #: Wall time without offset: `2027-06-19T16:00`.
    at: str
    #: IANA zone of the venue: `Europe/Rome`.
    zone: str
    place: str = ""
    latitude: float | None = None
    longitude: float | None = None
    #: The instant that is meant when daylight saving repeats the wall time; without it such a time is an error.
    fold: Literal["earlier", "later"] | None = None


class WeddingInfo(PlanModel):
    """A wedding's own data."""

    id: Slug
    couple: Annotated[tuple[str, ...], Field(min_length=1, max_length=4)]
    ceremony: Ceremony
    #: BCP 47, e.g. `it-IT`.
    locale: str = "en"
    #: ISO 4217: the currency where a step names none.
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    contacts: tuple[Contact, ...] = ()
    #: How long after the ceremony the wedding's own life ends.
    ends_after: DurationText = "2d"


class Endpoint(PlanModel):
    """One call of a generic vendor."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    #: Begins with `/`; `{booking_id}` and `{reference}` are filled in.
    path: str


class ApiEndpoints(PlanModel):
    """A generic vendor's own API; `wedsync/vendors/generic/manifest.toml` gives what is left out."""

    base_url: str | None = None
    request: Endpoint | None = None
    confirm: Endpoint | None = None
    change: Endpoint | None = None
    cancel: Endpoint | None = None
    find: Endpoint | None = None


class Service(PlanModel):
    """One wedding service and the vendor that provides it."""

    id: Slug
    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Role
    #: A vendor with a manifest: `stripe`, `google_calendar`, `generic`.
    vendor: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    #: The account at the vendor; for `generic` the business. Defaults to the service's id there.
    account: Slug | None = None
    #: Every step of this service needs every step of those services.
    depends_on: tuple[Slug, ...] = ()
    critical: bool = False
    #: The vendor answers by webhook rather than at once.
    real_time_updates: bool = False
    #: Vendors tried in this order after a definite failure.
    fallbacks: tuple[str, ...] = ()
    api_endpoints: ApiEndpoints | None = None


class Compensation(PlanModel):
    """A plan's changes to a step's undo."""

    #: `vendor`: as the vendor's manifest says; `none`: leave the effect; `hand`: a person undoes it.
    by: Literal["vendor", "none", "hand"] = "vendor"
    #: How long the undo is tried before it is parked.
    deadline: DurationText | None = None
    #: For messages: the text that is sent instead of unsending.
    text: str | None = None


class WhenDown(PlanModel):
    """Rule for a step that has not begun when none of its vendors can be reached."""

    #: queue: is tried again until `max_wait` is over. ask: a person decides. cached: a read takes the newest known
    #: answer, at most `max_age` old. skip: goes without. fail: is tried until `timeout`. `on_failure` comes after that.
    then: Literal["queue", "ask", "cached", "skip", "fail"]
    #: For `queue`.
    max_wait: DurationText | None = None
    #: For `cached`.
    max_age: DurationText | None = None


class Step(PlanModel):
    """One action for one wedding service."""

    id: Slug
    #: `capability.verb`, e.g. `payments.collect`.
    action: Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]
    service: Slug | None = None
    #: The same step for each of several services: expanded to `{id}-{service}`. Instead of `service`.
    services: tuple[Slug, ...] = ()
    inputs: dict[str, JsonValue] = {}
    needs: tuple[Slug, ...] = ()
    window: Window = "preparation"
    #: Wall time at the venue (`2027-05-01T09:00`), or relative: `ceremony - 48h`, `booking + 7d` (a step's end).
    #: Without it the step is due at once.
    at: str | None = None
    fold: Literal["earlier", "later"] | None = None
    #: How long the step may take, the vendor's answer included.
    timeout: DurationText | None = None
    #: Default: `rollback` when the service is critical, else `continue`.
    on_failure: OnFailure | None = None
    #: Overrides what the plan says for the capability.
    when_down: WhenDown | None = None
    #: Overrides the service's.
    fallbacks: tuple[str, ...] | None = None
    compensation: Compensation = Compensation()
    #: A step that can't be undone waits for every critical step of its transaction, unless this is true.
    early: bool = False
    #: For messages at a vendor that can neither replay nor find: the result of an unknown outcome.
    delivery: Literal["hold", "at_most_once", "may_repeat"] = "hold"
    #: For a message: done once its vendor accepted it, or only once a vendor event confirms the delivery.
    done_when: Literal["accepted", "delivered"] = "accepted"
    #: A hold's deadline, and the act that follows it.
    decide_within: DurationText | None = None
    otherwise: Literal["retry", "skip", "rollback"] | None = None
    #: Results that stand in when the step is skipped.
    default_results: dict[str, JsonValue] = {}


class Group(PlanModel):
    """Steps that run in sequence or in parallel; a member is a step or another group."""

    id: Slug
    run: Literal["sequence", "parallel"]
    members: Annotated[tuple[Slug, ...], Field(min_length=1)]
    #: The group as a whole comes after these steps or groups.
    needs: tuple[Slug, ...] = ()


class Plan(PlanModel):
    """A wedding plan, version 1."""

    version: Literal[1]
    wedding: WeddingInfo
    services: Annotated[tuple[Service, ...], Field(min_length=1, max_length=100)]
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=300)]
    groups: tuple[Group, ...] = ()
    #: By capability (`payments`, `sms`, ...): what to do while none of its vendors can be reached.
    when_down: dict[str, WhenDown] = {}
    #: How many steps of this wedding run at once.
    parallelism: Annotated[int, Field(ge=1, le=50)] = 10


class PlanError(PlanModel):
    """One thing wrong with a plan, and where."""

    file: str = ""
    #: 1-based; 0 when the source has no lines.
    line: int = 0
    #: Dotted path: `steps[3].needs[0]`.
    field: str
    #: Stable machine word: `unknown_step`, `cycle`, `unknown_capability`, ... (docs/plan.md lists them).
    code: str
    detail: str


class Degradation(PlanModel):
    """`WhenDown` in the form that runs."""

    do: Literal["queue", "ask", "cached", "skip", "fail"] = "fail"
    max_wait_seconds: int = 0
    max_age_seconds: int = 0


class PlannedStep(PlanModel):
    """A step in the form that runs: services and groups expanded, defaults filled in, needs complete."""

    id: str
    action: str
    service: str
    capability: str
    #: The first choice, then the fallbacks.
    vendors: tuple[str, ...]
    account: str
    critical: bool
    inputs: dict[str, JsonValue]
    #: Steps that must have succeeded (or been skipped) before: explicit, by service, by group, by reference, implied.
    needs: tuple[str, ...]
    window: Window
    at: str | None
    fold: Literal["earlier", "later"] | None
    timeout_seconds: int
    on_failure: OnFailure
    compensation: Compensation
    compensation_deadline_seconds: int
    early: bool
    delivery: Literal["hold", "at_most_once", "may_repeat"]
    done_when: Literal["accepted", "delivered"] = "accepted"
    decide_within_seconds: int
    otherwise: Literal["retry", "skip", "rollback"] | None
    default_results: dict[str, JsonValue]
    endpoints: dict[str, JsonValue]
    real_time_updates: bool
    when_down: Degradation = Degradation()

    def needing(self, needs: tuple[str, ...]) -> PlannedStep:
        """Need only these."""
        return self.model_validate({**self.__dict__, "needs": needs})
