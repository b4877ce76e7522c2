"""Fill in a planned step's inputs for a vendor's client: references, contacts, times and amounts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from wedsync.domain import money
from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import actions, references, times
from wedsync.domain.plans.load import explain
from wedsync.domain.plans.plan import Contact, Plan, PlannedStep
from wedsync.domain.value import Value
from wedsync.domain.vendors import action_inputs as filled

_Inputs = TypeVar("_Inputs", bound=actions.Inputs)
#: The start and the end of what a step books: `(starts, minutes, zone, fold)` as the plan writes them.
Periods = Callable[[str, int, str | None, times.Fold | None], tuple[filled.Moment, filled.Moment]]


class Facts(BaseModel):
    """Values that a plan's inputs are filled in with, beside times and other steps' results."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: The values of the references to the plan itself, e.g. `wedding.couple` → "Ana & Bo".
    constants: dict[str, str]
    contacts: tuple[Contact, ...]
    currency: str


def facts_of(plan: Plan) -> Facts:
    """Return the plan's facts."""
    wedding = plan.wedding
    return Facts(constants=references.constants(plan), contacts=wedding.contacts, currency=wedding.currency)


def materialize(
    step: PlannedStep, vendor: str, plan: Plan, results: Mapping[str, Mapping[str, JsonValue]]
) -> dict[str, JsonValue]:
    """Fill in the inputs of `step` for `vendor`, its times by this process's zone data. See `fill`."""
    return fill(step, vendor, facts_of(plan), results, periods_of(plan))


def fill(
    step: PlannedStep,
    vendor: str,
    facts: Facts,
    results: Mapping[str, Mapping[str, JsonValue]],
    periods: Periods,
) -> dict[str, JsonValue]:
    """Fill in the inputs of `step` for `vendor` in JSON mode, in the shape of `wedsync.domain.vendors.action_inputs`.

    `results` is step → result → value of the steps that `step` refers to. The same arguments give equal output.
    Raises InvalidInput whose `field` is the input's dotted path.
    """
    written = written_inputs(step, facts, results)
    return _FILL[type(written)](written, _Filler(step, vendor, facts, periods)).model_dump(mode="json")


def written_inputs(step: PlannedStep, facts: Facts, results: Mapping[str, Mapping[str, JsonValue]]) -> actions.Inputs:
    """Read the step's inputs with their references filled in. Raises InvalidInput."""
    known = actions.ACTIONS.get(step.action)
    if known is None:
        raise InvalidInput(f"unknown action {step.action!r}", field="action", reason="unknown_action")
    return checked(known.inputs, references.fill(step.inputs, results, facts.constants))


def fill_text(text: str, facts: Facts) -> str:
    """Fill in a compensation's text with what the plan itself says; raises InvalidInput for any other reference."""
    return str(references.fill({"text": text}, {}, facts.constants)["text"])


def periods_of(plan: Plan) -> Periods:
    """Resolve starts and ends by this process's zone data; the minutes pass as they do on a watch."""

    def resolve(
        starts: str, minutes: int, zone: str | None, fold: times.Fold | None
    ) -> tuple[filled.Moment, filled.Moment]:
        place = zone or plan.wedding.ceremony.zone
        try:
            start = times.instant_of(starts, place, fold, plan)
            return _moment(start, place), _moment(start + timedelta(minutes=minutes), place)
        except InvalidInput as error:
            raise InvalidInput(error.detail, field="starts", reason=error.reason) from None

    return resolve


def period_of(
    step: PlannedStep, plan: Plan, results: Mapping[str, Mapping[str, JsonValue]]
) -> tuple[filled.Moment, filled.Moment] | None:
    """Resolve the time of a step whose inputs give one; None: they give none, or by a result that is not there yet.

    Raises InvalidInput as `times.resolve_wall` does.
    """
    known = actions.ACTIONS.get(step.action)
    if known is None or "starts" not in known.inputs.model_fields:
        return None
    said: dict[str, JsonValue] = {
        name: step.inputs[name] for name in ("starts", "minutes", "zone", "fold") if name in step.inputs
    }
    if any(source not in results for source, _ in references.names(said)):
        return None
    values = references.fill(said, results, references.constants(plan))
    timing = checked(_Timing, {"starts": "", "minutes": _default_minutes(known.inputs), **values})
    return periods_of(plan)(timing.starts, timing.minutes, timing.zone, timing.fold)


class _Timing(actions.Inputs):
    """Inputs that give a step's time."""

    starts: str
    minutes: int
    zone: str | None = None
    fold: times.Fold | None = None


def _default_minutes(model: type[actions.Inputs]) -> int:
    return int(model.model_fields["minutes"].default)


def _moment(instant: datetime, zone: str) -> filled.Moment:
    """Pair an instant with what the wall in `zone` shows."""
    return filled.Moment(local=times.wall_text(instant, zone), zone=zone, instant=instant.astimezone(UTC))


def checked(model: type[_Inputs], values: Mapping[str, JsonValue]) -> _Inputs:
    """Validate `values` by the catalogue's strict `model`; raises InvalidInput naming the first wrong field."""
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = explain(error, model)[0]
        raise InvalidInput(first.detail, field=first.field, reason=first.code) from None


class _Filler:
    """Data that one step's inputs are filled in with."""

    def __init__(self, step: PlannedStep, vendor: str, facts: Facts, periods: Periods) -> None:
        self.step, self.vendor, self.facts, self.period = step, vendor, facts, periods

    def person(self, contact_id: str, field: str) -> filled.Person:
        """Return the contact, with its payment instrument at this vendor."""
        found = next((contact for contact in self.facts.contacts if contact.id == contact_id), None)
        if found is None:
            raise InvalidInput(f"unknown contact {contact_id!r}", field=field, reason="unknown_contact")
        return filled.Person(
            id=found.id,
            name=found.name,
            email=found.email,
            phone=found.phone,
            instrument=found.instruments.get(self.vendor),
        )

    def minor(self, amount: str, currency: str, field: str) -> int:
        """Convert to minor units."""
        try:
            return money.to_minor(amount, currency)
        except InvalidInput as error:
            raise InvalidInput(error.detail, field=field, reason=error.reason) from None


def _payment(inputs: actions.CollectPayment, fill: _Filler) -> Value:
    currency = inputs.currency or fill.facts.currency
    return filled.Payment(
        amount=inputs.amount,
        currency=currency,
        amount_minor=fill.minor(inputs.amount, currency, "amount"),
        payer=fill.person(inputs.payer, "payer"),
        description=inputs.description,
    )


def _sms(inputs: actions.SendSms, fill: _Filler) -> Value:
    return filled.Sms(to=fill.person(inputs.to, "to"), text=inputs.text)


def _email(inputs: actions.SendEmail, fill: _Filler) -> Value:
    return filled.Email(to=fill.person(inputs.to, "to"), subject=inputs.subject, text=inputs.text)


def _event(inputs: actions.CreateEvent, fill: _Filler) -> Value:
    starts, ends = fill.period(inputs.starts, inputs.minutes, inputs.zone, inputs.fold)
    return filled.CalendarEvent(
        title=inputs.title,
        starts=starts,
        ends=ends,
        place=inputs.place,
        notes=inputs.notes,
        attendees=tuple(fill.person(contact, f"attendees[{index}]") for index, contact in enumerate(inputs.attendees)),
    )


def _booking(inputs: actions.RequestBooking, fill: _Filler) -> Value:
    starts, ends = fill.period(inputs.starts, inputs.minutes, inputs.zone, inputs.fold)
    currency = inputs.currency or fill.facts.currency
    return filled.Booking(
        title=inputs.title,
        starts=starts,
        ends=ends,
        guests=inputs.guests,
        contact=fill.person(inputs.contact, "contact"),
        price=inputs.price,
        currency=currency,
        price_minor=None if inputs.price is None else fill.minor(inputs.price, currency, "price"),
        notes=inputs.notes,
        answer="webhook" if fill.step.real_time_updates else "now",
    )


def _file(inputs: actions.PutFile, fill: _Filler) -> Value:
    return filled.File(name=inputs.name, text=inputs.text, content_type=inputs.content_type)


def _meeting(inputs: actions.CreateMeeting, fill: _Filler) -> Value:
    starts, _ = fill.period(inputs.starts, inputs.minutes, inputs.zone, inputs.fold)
    return filled.Meeting(topic=inputs.topic, starts=starts, minutes=inputs.minutes)


def _forecast(inputs: actions.ReadForecast, fill: _Filler) -> Value:
    return filled.ForecastQuery(latitude=inputs.latitude, longitude=inputs.longitude)


def _chat(inputs: actions.PostChat, fill: _Filler) -> Value:
    return filled.ChatMessage(channel=inputs.channel, text=inputs.text)


_FILL: dict[type[actions.Inputs], Callable[..., Value]] = {
    actions.CollectPayment: _payment,
    actions.SendSms: _sms,
    actions.SendEmail: _email,
    actions.CreateEvent: _event,
    actions.RequestBooking: _booking,
    actions.PutFile: _file,
    actions.CreateMeeting: _meeting,
    actions.ReadForecast: _forecast,
    actions.PostChat: _chat,
}
