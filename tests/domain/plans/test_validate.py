from collections.abc import Callable
from typing import Any

import pytest

from wedsync.domain.plans.plan import Plan, PlanError
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest

Errors = Callable[[dict[str, Any]], list[PlanError]]
Edit = Callable[[dict[str, Any]], object]
VENUE, DEPOSIT, EVENT, EMAIL = range(4)


def step(index: int, **keys: Any) -> Edit:
    return lambda data: data["steps"][index].update(keys)


def inputs(index: int, **keys: Any) -> Edit:
    return lambda data: data["steps"][index]["inputs"].update(keys)


def ceremony(**keys: Any) -> Edit:
    return lambda data: data["wedding"]["ceremony"].update(keys)


def wedding(**keys: Any) -> Edit:
    return lambda data: data["wedding"].update(keys)


def contact(**keys: Any) -> Edit:
    return lambda data: data["wedding"]["contacts"][0].update(keys)


def service(index: int, **keys: Any) -> Edit:
    return lambda data: data["services"][index].update(keys)


def groups(*given: dict[str, Any]) -> Edit:
    return lambda data: data.update(groups=[{"run": "parallel", **group} for group in given])


def no_service(data: dict[str, Any]) -> None:
    del data["steps"][VENUE]["service"]


def extra_step(**keys: Any) -> Edit:
    return lambda data: data["steps"].append(
        {"id": "extra", "action": "email.send", "service": "mail", "inputs": {"to": "ana", "subject": "s", "text": "t"}}
        | keys
    )


def many(**keys: Any) -> Edit:
    """The email goes out for two services."""

    def edit(data: dict[str, Any]) -> None:
        data["services"].append({"id": "mail-two", "name": "M", "role": "other", "vendor": "resend"})
        del data["steps"][EMAIL]["service"]
        data["steps"][EMAIL] |= {"services": ["mail", "mail-two"]} | keys

    return edit


def both(*edits: Edit) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        for one in edits:
            one(data)

    return edit


def test_a_good_plan_has_no_errors(data: dict[str, Any], errors_of: Errors) -> None:
    assert errors_of(data) == []


NAMES = [
    (step(EMAIL, needs=["depsoit"]), "steps[3].needs[0]", "unknown_step", "did you mean 'deposit'"),
    (step(EMAIL, needs=["venue", "venue"]), "steps[3].needs[1]", "duplicate_id", "named already"),
    (step(VENUE, needs=["deposit"]), "steps[0].needs[0]", "cycle", "venue -> deposit -> venue"),
    (step(VENUE, needs=["venue"]), "steps[0].needs[0]", "cycle", "venue -> venue"),
    (inputs(VENUE, notes="${deposit.payment_id}"), "steps[0].inputs.notes", "cycle", "venue -> deposit -> venue"),
    (step(VENUE, at="deposit + 1d"), "steps[0].at", "cycle", "venue -> deposit -> venue"),
    (step(EMAIL, id="event"), "steps[3].id", "duplicate_id", "steps[2].id"),
    (step(EMAIL, id="ceremony"), "steps[3].id", "reserved_id", "'ceremony'"),
    (lambda d: d["services"].append(d["services"][3]), "services[4].id", "duplicate_id", "services[3].id"),
    (wedding(contacts=[{"id": "ana", "name": "A", "email": "a@b.cd", "instruments": {"stripe": "x",
     "paypal": "y"}}] * 2),
     "wedding.contacts[1].id", "duplicate_id", "'ana'"),
    (service(0, depends_on=["pya"]), "services[0].depends_on[0]", "unknown_service", "did you mean 'pay'"),
    (both(service(0, depends_on=["pay"]), service(1, depends_on=["villa"])), "services[0].depends_on[0]", "cycle",
     "villa -> pay -> villa"),
    (service(0, depends_on=["villa"]), "services[0].depends_on[0]", "cycle", "villa -> villa"),
    (groups({"id": "g", "members": ["nobody"]}), "groups[0].members[0]", "unknown_member", "'nobody'"),
    (groups({"id": "g", "members": ["venue"], "needs": ["x9"]}), "groups[0].needs[0]", "unknown_step", "'x9'"),
    (groups({"id": "g", "members": ["venue"]}, {"id": "h", "members": ["venue"]}), "groups[1].members[0]",
     "two_groups", "'venue' is in group 'g'"),
    (groups({"id": "venue", "members": ["email"]}), "groups[0].id", "duplicate_id", "'venue'"),
    (groups({"id": "g", "members": ["h", "venue"]}, {"id": "h", "members": ["g"]}), "groups[0].members", "cycle",
     "g -> h -> g"),
    (groups({"id": "g", "run": "sequence", "members": ["deposit", "venue"]}), "groups[0].members[1]",
     "cycle", "venue -> deposit -> venue"),
    (both(many(id="email-" + "x" * 50), lambda d: d["steps"][EMAIL].update(services=["mail", "mail-two"])),
     "steps[3].services", "id_too_long", "more than 63"),
    (both(many(), extra_step(id="email-mail")), "steps[3].services", "duplicate_id", "'email-mail'"),
]  # fmt: skip

STEPS = [
    (no_service, "steps[0]", "missing_service", "'service' or 'services'"),
    (step(EMAIL, services=["mail"]), "steps[3].services", "conflicting_keys", "not both"),
    (step(EMAIL, service="male"), "steps[3].service", "unknown_service", "did you mean 'mail'"),
    (step(EMAIL, action="emial.send"), "steps[3].action", "unknown_capability", "did you mean 'email'"),
    (step(EMAIL, action="qqq.send"), "steps[3].action", "unknown_capability", "known are booking"),
    (step(EMAIL, action="email.sent"), "steps[3].action", "unknown_action", "known are email.send"),
    (step(EMAIL, service="cal"), "steps[3].action", "unsupported_action", "vendors that can: resend"),
    (step(EMAIL, fallbacks=["twilio"]), "steps[3].fallbacks[0]", "unsupported_action", "vendors that can: resend"),
    (service(3, fallbacks=["twilio"]), "services[3].fallbacks[0]", "unsupported_action", "'twilio' cannot do email"),
    (service(3, vendor="resned"), "services[3].vendor", "unknown_vendor", "did you mean 'resend'"),
    (service(1, fallbacks=["paypall"]), "services[1].fallbacks[0]", "unknown_vendor", "did you mean 'paypal'"),
    (service(1, fallbacks=["stripe"]), "services[1].fallbacks[0]", "duplicate_id", "tried already"),
    (step(DEPOSIT, fallbacks=["paypal", "paypal"]), "steps[1].fallbacks[1]", "duplicate_id", "tried already"),
    (service(3, api_endpoints={"base_url": "https://x.test"}), "services[3].api_endpoints", "conflicting_keys",
     "generic"),
    *((service(0, api_endpoints={"base_url": url}), "services[0].api_endpoints.base_url", "url_forbidden", why)
      for url, why in (("http://x.test", "https"), ("https://10.0.0.1:6443", "public"), ("https://[::1]@x/", "user"),
                       ("https://169.254.169.254", "public"), ("https://0x7f.1", "usually written"))),
    (step(EMAIL, at="yesterday!"), "steps[3].at", "bad_time", "neither a wall time"),
    (step(EMAIL, at="2027-06-18"), "steps[3].at", "bad_time", "neither a wall time"),
    (step(EMAIL, at="2027-03-28T02:30"), "steps[3].at", "nonexistent_time", "set forward"),
    (step(EMAIL, at="2027-10-31T02:30"), "steps[3].at", "ambiguous_time", "fold"),
    (step(EMAIL, fold="later"), "steps[3].fold", "conflicting_keys", "without 'at'"),
    (step(EMAIL, at="bokking + 7d"), "steps[3].at", "unknown_anchor", "no step 'bokking'"),
    (step(EMAIL, at="ceremony-48h"), "steps[3].at", "unknown_anchor", "spaces around the minus"),
    (step(EMAIL, at="venue - 7d"), "steps[3].at", "bad_time", "before the end"),
    (step(EMAIL, at="ceremony - 1y"), "steps[3].at", "bad_duration", "'1y'"),
    (both(many(), extra_step(at="email + 1d")), "steps[4].at", "unknown_anchor", "email-mail, email-mail-two"),
    (step(EMAIL, timeout="0m"), "steps[3].timeout", "bad_duration", "no time"),
    (step(EMAIL, decide_within="P1Y"), "steps[3].decide_within", "bad_duration", "P1Y"),
    (step(EMAIL, compensation={"deadline": "9999d"}), "steps[3].compensation.deadline", "bad_duration", "longer than"),
    (step(EMAIL, on_failure="continue", otherwise="rollback"), "steps[3].otherwise", "conflicting_keys", "continue"),
    (step(EMAIL, at="ceremony - 1d", otherwise="rollback"), "steps[3].otherwise", "conflicting_keys", "retry or skip"),
    (
        both(step(EVENT, at="ceremony - 9d"), step(EMAIL, needs=["event"], on_failure="hold", otherwise="rollback")),
        "steps[3].otherwise",
        "conflicting_keys",
        "comes after one with a time of its own",
    ),
    (step(VENUE, delivery="at_most_once"), "steps[0].delivery", "conflicting_keys", "messages"),
    (step(VENUE, done_when="delivered"), "steps[0].done_when", "conflicting_keys", "messages"),
    (step(VENUE, compensation={"text": "no"}), "steps[0].compensation.text", "conflicting_keys", "sends nothing"),
    (step(EMAIL, compensation={"by": "none", "text": "no"}), "steps[3].compensation.text", "conflicting_keys",
     "'none'"),
    (step(EMAIL, compensation={"text": "${venue.reference}"}), "steps[3].compensation.text", "bad_reference",
     "only wedding"),
    (step(EMAIL, compensation={"text": "${venue"}), "steps[3].compensation.text", "bad_reference", "only wedding"),
    (step(VENUE, default_results={"refrence": "R"}), "steps[0].default_results.refrence", "unknown_result",
     "'reference'"),
    (step(VENUE, default_results={"zz": "R"}), "steps[0].default_results.zz", "unknown_result", "it gives booking_id"),
    (step(VENUE, on_failure="hold", otherwise="skip"), "steps[0].otherwise", "missing_default", "'deposit' refers"),
]  # fmt: skip

INPUTS = [
    (inputs(EMAIL, subjct="x"), "steps[3].inputs.subjct", "unknown_key", "did you mean 'subject'"),
    (lambda d: d["steps"][EMAIL]["inputs"].pop("text"), "steps[3].inputs.text", "missing_key", "'text'"),
    (inputs(EVENT, minutes="60"), "steps[2].inputs.minutes", "wrong_type", "whole number"),
    (inputs(DEPOSIT, amount=12.5), "steps[1].inputs.amount", "wrong_type", 'put it in quotes, "12.5"'),
    (inputs(DEPOSIT, amount="12,5"), "steps[1].inputs.amount", "bad_value", "1500.00"),
    (inputs(DEPOSIT, amount="12.505"), "steps[1].inputs.amount", "too_many_decimals", "EUR has 2 decimals"),
    (inputs(DEPOSIT, amount="12.5", currency="JPY"), "steps[1].inputs.amount", "too_many_decimals", "no decimals"),
    (inputs(VENUE, price="1.234"), "steps[0].inputs.price", "too_many_decimals", "has 3"),
    (inputs(DEPOSIT, amount="0.00"), "steps[1].inputs.amount", "bad_amount", "nothing"),
    (inputs(DEPOSIT, currency="EUX"), "steps[1].inputs.currency", "unknown_currency", "ISO 4217"),
    (inputs(DEPOSIT, payer="anna"), "steps[1].inputs.payer", "unknown_contact", "did you mean 'ana'"),
    (inputs(EVENT, attendees=["ana", "bo"]), "steps[2].inputs.attendees[1]", "unknown_contact", "'bo'"),
    (inputs(EMAIL, to="quiet"), "steps[3].inputs.to", "missing_email", "no email"),
    (contact(instruments={"paypal": "v"}), "steps[1].inputs.payer", "missing_instrument", "'stripe'"),
    (contact(instruments={"stripe": "v"}), "services[1].fallbacks[0]", "missing_instrument", "'paypal'"),
    (both(contact(instruments={"stripe": "v"}), step(DEPOSIT, fallbacks=["paypal"])), "steps[1].fallbacks[0]",
     "missing_instrument", "'deposit' may ask"),
    (inputs(EVENT, starts="noon"), "steps[2].inputs.starts", "bad_time", "neither"),
    (inputs(EVENT, starts="!"), "steps[2].inputs.starts", "bad_time", "no wall time"),
    (inputs(EVENT, starts="2027-03-28T02:30"), "steps[2].inputs.starts", "nonexistent_time", "Europe/Rome"),
    (inputs(EVENT, starts="2027-10-31T02:30"), "steps[2].inputs.starts", "ambiguous_time", "twice"),
    (inputs(EVENT, starts="2027-03-14T02:30", zone="America/New_York"), "steps[2].inputs.starts", "nonexistent_time",
     "America/New_York"),
    (inputs(EVENT, zone="Mars/Base"), "steps[2].inputs.zone", "unknown_zone", "Mars/Base"),
    (inputs(EMAIL, text="${depsoit.amount}"), "steps[3].inputs.text", "unknown_reference", "did you mean 'deposit'"),
    (inputs(EMAIL, text="${deposit.amuont}"), "steps[3].inputs.text", "unknown_reference", "gives payment_id"),
    (inputs(EMAIL, text="${email.message_id}"), "steps[3].inputs.text", "unknown_reference", "its own"),
    (inputs(EMAIL, text="${wedding.copule}"), "steps[3].inputs.text", "unknown_reference", "'wedding.couple'"),
    (inputs(EMAIL, text="${contact.bo.name}"), "steps[3].inputs.text", "unknown_reference", "contact.ana.name"),
    (inputs(EMAIL, text="${}"), "steps[3].inputs.text", "unknown_reference", "no reference"),
    (inputs(EMAIL, text="${deposit.amount"), "steps[3].inputs.text", "bad_reference", "without its '}'"),
    (both(many(), extra_step(inputs={"to": "ana", "subject": "s", "text": "${email.message_id}"})),
     "steps[4].inputs.text", "unknown_reference", "email-mail, email-mail-two"),
    (inputs(EVENT, minutes="${deposit.amount}"), "steps[2].inputs.minutes", "wrong_type", "whole number"),
]  # fmt: skip

WEDDING = [
    (ceremony(zone="Europe/Roma"), "wedding.ceremony.zone", "unknown_zone", "Europe/Roma"),
    (ceremony(at="2027-03-28T02:30"), "wedding.ceremony.at", "nonexistent_time", "set forward"),
    (ceremony(at="2027-10-31T02:30"), "wedding.ceremony.at", "ambiguous_time", "fold"),
    (ceremony(at="soon"), "wedding.ceremony.at", "bad_time", "wall time"),
    (ceremony(latitude=1.0), "wedding.ceremony", "conflicting_keys", "together"),
    (ceremony(latitude=91.0, longitude=1.0), "wedding.ceremony.latitude", "bad_value", "within"),
    (wedding(locale="it_IT"), "wedding.locale", "bad_locale", "it-IT"),
    (wedding(ends_after="P1M"), "wedding.ends_after", "bad_duration", "P1M"),
    (wedding(currency="XTS"), "wedding.currency", "unknown_currency", "XTS"),
    (contact(phone="0318125551"), "wedding.contacts[0].phone", "bad_phone", "E.164"),
    (contact(email="ana@"), "wedding.contacts[0].email", "bad_email", "no email"),
    (contact(instruments={"stripe": "p", "paypal": "v", "strpe": "x"}), "wedding.contacts[0].instruments.strpe",
     "unknown_vendor", "'stripe'"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "field", "code", "words"), [*NAMES, *STEPS, *INPUTS, *WEDDING])
def test_a_fault_is_named_with_its_field_and_code_and_nothing_else_is(
    edit: Edit, field: str, code: str, words: str, data: dict[str, Any], errors_of: Errors
) -> None:
    edit(data)
    errors = errors_of(data)
    assert [(error.field, error.code) for error in errors] == [(field, code)]
    assert words in errors[0].detail


def test_a_phone_is_needed_to_be_texted(data: dict[str, Any], errors_of: Errors) -> None:
    data["services"].append({"id": "sms", "name": "S", "role": "other", "vendor": "twilio"})
    data["steps"].append({"id": "text", "action": "sms.send", "service": "sms", "inputs": {"to": "quiet", "text": "t"}})
    assert [(error.field, error.code) for error in errors_of(data)] == [("steps[4].inputs.to", "missing_phone")]


GOOD = [
    ceremony(at="2027-10-31T02:30", fold="later"),
    step(EMAIL, at="2027-10-31T02:30", fold="earlier"),
    inputs(EVENT, starts="2027-10-31T02:30", fold="later"),
    inputs(EVENT, starts="2027-10-31T02:30", fold="earlier"),
    inputs(EVENT, starts="2027-10-31T02:30", zone="Asia/Tokyo"),
    inputs(DEPOSIT, amount="1250", currency="JPY"),
    inputs(EMAIL, text="$${literal} ${wedding.couple} ${contact.ana.name} ${service.name}"),
    step(VENUE, on_failure="hold", otherwise="skip", default_results={"reference": "R"}),
    step(EMAIL, compensation={"text": "${wedding.date}: ${service.name} for ${contact.ana.name}"}),
    service(0, api_endpoints={"base_url": "https://x.test"}, real_time_updates=True),
    groups(
        {"id": "g", "members": ["h"], "needs": ["venue"]},
        {"id": "h", "run": "sequence", "members": ["deposit", "event"]},
    ),
    step(EMAIL, needs=["venue", "event"], at="event + 0m"),
    both(groups({"id": "g", "members": ["venue", "deposit"]}), step(EMAIL, needs=["g"])),
    many(),
    both(many(), extra_step(needs=["email"]), extra_step(id="one", needs=["email-mail"], at="email-mail-two + 1h")),
]  # fmt: skip


@pytest.mark.parametrize("edit", GOOD)
def test_what_is_allowed_is_no_fault(edit: Edit, data: dict[str, Any], errors_of: Errors) -> None:
    edit(data)
    assert errors_of(data) == []


def test_a_reference_keeps_its_type_only_when_it_stands_alone(data: dict[str, Any], errors_of: Errors) -> None:
    data["steps"][EVENT]["inputs"]["minutes"] = "${deposit.amount_minor}"
    assert errors_of(data) == []
    data["steps"][EVENT]["inputs"]["minutes"] = "1${deposit.amount_minor}"
    assert [error.code for error in errors_of(data)] == ["wrong_type"]


def test_two_knots_are_two_cycles_and_each_is_as_short_as_can_be(data: dict[str, Any], errors_of: Errors) -> None:
    data["steps"][VENUE]["needs"] = ["email", "deposit"]
    data["steps"] += [
        {"id": "x", "action": "storage.put", "service": "cal", "needs": ["y"], "inputs": {"name": "n", "text": "t"}},
        {"id": "y", "action": "storage.put", "service": "cal", "needs": ["x"], "inputs": {"name": "n", "text": "t"}},
    ]
    cycles = [error.detail.partition(": ")[2] for error in errors_of(data) if error.code == "cycle"]
    assert cycles == ["venue -> deposit -> venue", "x -> y -> x"]


def test_a_longer_cycle_is_shown_each_needing_the_next(data: dict[str, Any], errors_of: Errors) -> None:
    data["steps"][VENUE]["needs"] = ["email"]
    data["steps"][EMAIL]["needs"] = ["event"]
    data["steps"][EVENT]["needs"] = ["venue"]
    details = [error.detail for error in errors_of(data)]
    assert any(
        "venue -> email -> event -> venue" in detail or "venue -> email -> deposit -> venue" in detail
        for detail in details
    )


def test_too_many_steps_are_refused_before_they_are_looked_at(data: dict[str, Any], errors_of: Errors) -> None:
    del data["steps"][EMAIL]["service"]
    data["steps"][EMAIL]["services"] = ["mail"] * 600
    assert [error.code for error in errors_of(data)] == ["too_many_steps"]


def test_errors_come_in_the_files_order(
    data: dict[str, Any], load: Callable[[dict[str, Any]], Plan], manifests: dict[str, Manifest]
) -> None:
    data["steps"][EMAIL]["needs"] = ["nobody"]
    data["wedding"]["currency"] = "XTS"
    errors = check_plan(load(data), manifests, lines={"steps[3].needs[0]": 3, "wedding.currency": 90}, file="p.yaml")
    assert [(error.file, error.line, error.code) for error in errors] == [
        ("p.yaml", 3, "unknown_step"),
        ("p.yaml", 90, "unknown_currency"),
    ]


def test_without_vendors_every_vendor_is_unknown(data: dict[str, Any], load: Callable[[dict[str, Any]], Plan]) -> None:
    assert {error.code for error in check_plan(load(data), {})} == {"unknown_vendor"}


def _chain(count: int) -> list[dict[str, Any]]:
    """Groups that each hold the next two over: as a tree they would be endless."""
    members = [[f"g{i + 1}", f"g{i + 2}"] for i in range(count - 2)] + [["event"], ["email"]]
    return [{"id": f"g{i}", "run": "parallel", "members": names} for i, names in enumerate(members)]


@pytest.mark.parametrize(
    ("edit", "field", "code"),
    [
        (lambda d: d.update(groups=[{"id": f"g{i}", "run": "parallel", "members": ["venue"]} for i in range(600)]),
         "groups", "too_large"),
        (step(EMAIL, needs=["venue"] * 11_000), "steps", "too_large"),
        (both(many(services=["mail"] * 100), lambda d: d["steps"][EMAIL]["inputs"].update(text="x" * 50_000)),
         "steps", "too_large"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_before_it_is_looked_at(
    edit: Edit, field: str, code: str, data: dict[str, Any], errors_of: Errors
) -> None:
    edit(data)
    assert [(error.field, error.code) for error in errors_of(data)] == [(field, code)]


def test_needs_beyond_counting_are_refused(data: dict[str, Any], errors_of: Errors) -> None:
    del data["steps"][EVENT]["service"]
    data["services"] += [{"id": f"c{i}", "name": "c", "role": "other", "vendor": "google_calendar"} for i in range(90)]
    data["steps"][EVENT]["services"] = [f"c{i}" for i in range(90)]
    data["groups"] = [{"id": f"g{i}", "run": "parallel", "members": ["event"]} for i in range(40)]
    data["groups"].append({"id": "all", "run": "parallel", "members": ["event"], "needs": [f"g{i}" for i in range(40)]})
    assert ("groups", "too_large") in {(error.field, error.code) for error in errors_of(data)}


def test_groups_that_hold_one_another_many_times_over_are_no_burden(data: dict[str, Any], errors_of: Errors) -> None:
    data["groups"] = _chain(100)
    assert {error.code for error in errors_of(data)} == {"two_groups"}


def test_no_more_errors_are_named_than_help(data: dict[str, Any], errors_of: Errors) -> None:
    data["steps"][EMAIL]["needs"] = [f"nobody-{i}" for i in range(5000)]
    errors = errors_of(data)
    assert len(errors) == 200
    assert {error.code for error in errors} == {"unknown_step"}
