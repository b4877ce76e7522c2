"""Check everything that must hold between the parts of a plan, and find all faults at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from wedsync.domain import money
from wedsync.domain.plans import durations, times
from wedsync.domain.plans.check_inputs import check_inputs
from wedsync.domain.plans.check_names import check_names
from wedsync.domain.plans.check_steps import check_steps
from wedsync.domain.plans.errors import Report
from wedsync.domain.plans.expand import MAX_STEPS
from wedsync.domain.plans.plan import Contact, Plan, PlanError
from wedsync.domain.ssrf import ForbiddenTarget, SsrfPolicy, read_url
from wedsync.domain.vendors.manifest import Manifest

#: Names listed in needs, services, members and fallbacks.
MAX_NAMES = 10_000
#: Characters of inputs, counted for each service that a step is for.
MAX_INPUTS = 4 * 1024 * 1024
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_EMAIL = re.compile(r"[^\s@<>(),;:\"\[\]\\]{1,64}@[^\s@.]+(\.[^\s@.]+)+")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def check_plan(
    plan: Plan,
    manifests: Mapping[str, Manifest],
    *,
    lines: Mapping[str, int] = MappingProxyType({}),
    file: str = "",
) -> list[PlanError]:
    """Return every error of `plan` against the vendors at hand; empty when it can be compiled and run.

    `lines` (dotted field path → 1-based line) and `file` only name places. The codes are `codes.PLAN_ERROR_CODES`.
    """
    report = Report(plan, manifests, lines, file)
    _check_size(report)
    if report.errors():
        return report.errors()
    _check_wedding(report)
    _check_services(report)
    check_names(report)
    check_steps(report)
    check_inputs(report)
    return report.errors()


def _check_size(report: Report) -> None:
    """Check the bounds on the other checks' work: nothing beyond them is checked."""
    plan = report.plan
    if len(report.instances) > MAX_STEPS:
        report.add("steps", "too_many_steps", f"{len(report.instances)} steps once expanded; at most {MAX_STEPS}")
    if len(plan.groups) > MAX_STEPS:
        report.add("groups", "too_large", f"{len(plan.groups)} groups; at most {MAX_STEPS}")
    lists = [(*step.needs, *step.services, *(step.fallbacks or ())) for step in plan.steps]
    lists += [(*group.members, *group.needs) for group in plan.groups]
    lists += [(*service.depends_on, *service.fallbacks) for service in plan.services]
    if sum(map(len, lists)) > MAX_NAMES:
        report.add("steps", "too_large", f"more than {MAX_NAMES} names in needs, services, members and fallbacks")
    sizes = [len(json.dumps(step.inputs)) * max(1, len(step.services)) for step in plan.steps]
    if sum(sizes) > MAX_INPUTS:
        report.add("steps", "too_large", f"more than {MAX_INPUTS} characters of inputs once expanded")


def _check_wedding(report: Report) -> None:
    wedding = report.plan.wedding
    ceremony = wedding.ceremony
    with report.noting("wedding.ceremony.zone"):
        times.zone_info(ceremony.zone)
    if not report.has("wedding.ceremony.zone"):
        with report.noting("wedding.ceremony.at"):
            times.ceremony_instant(report.plan)
    with report.noting("wedding.currency"):
        money.exponent(wedding.currency)
    with report.noting("wedding.ends_after"):
        durations.parse_duration(wedding.ends_after)
    if not _LOCALE.fullmatch(wedding.locale):
        report.add("wedding.locale", "bad_locale", f"{wedding.locale!r} is no language tag such as it-IT")
    if (ceremony.latitude is None) != (ceremony.longitude is None):
        report.add("wedding.ceremony", "conflicting_keys", "latitude and longitude are given together or not at all")
    for name, most in (("latitude", 90), ("longitude", 180)):
        value = getattr(ceremony, name)
        if value is not None and not -most <= value <= most:
            report.add(f"wedding.ceremony.{name}", "bad_value", f"{value} is not within -{most} and {most}")
    for index, contact in enumerate(wedding.contacts):
        _check_contact(report, contact, f"wedding.contacts[{index}]")


def _check_contact(report: Report, contact: Contact, field: str) -> None:
    if contact.phone is not None and not _E164.fullmatch(contact.phone):
        report.add(f"{field}.phone", "bad_phone", f"{contact.phone!r} is no E.164 number such as +390318125551")
    if contact.email is not None and not _EMAIL.fullmatch(contact.email):
        report.add(f"{field}.email", "bad_email", f"{contact.email!r} is no email address")
    for vendor in contact.instruments:
        _check_vendor(report, vendor, f"{field}.instruments.{vendor}")


def _check_vendor(report: Report, vendor: str, field: str) -> None:
    if vendor not in report.manifests:
        known = sorted(report.manifests)
        hint = report.hint(vendor, known, f"; known are {', '.join(known)}")
        report.add(field, "unknown_vendor", f"unknown vendor {vendor!r}{hint}")


def _check_address(report: Report, url: str, field: str) -> None:
    try:
        # A stand-in on this machine passes if our own account is there, too: its calls find out.
        read_url(url, SsrfPolicy(allow_loopback=True))
    except ForbiddenTarget as error:
        report.add(field, "url_forbidden", error.detail)


def _check_services(report: Report) -> None:
    for index, service in enumerate(report.plan.services):
        field = f"services[{index}]"
        _check_vendor(report, service.vendor, f"{field}.vendor")
        check_fallbacks(report, service.vendor, service.fallbacks, field)
        vendors = {service.vendor, *service.fallbacks}
        vendors.update(vendor for i in report.instances if i.service == service.id for vendor in i.step.fallbacks or ())
        if service.api_endpoints is not None and "generic" not in vendors:
            detail = f"api_endpoints belong to the vendor 'generic'; {service.vendor!r} has its own API"
            report.add(f"{field}.api_endpoints", "conflicting_keys", detail)
        elif service.api_endpoints is not None and service.api_endpoints.base_url is not None:
            _check_address(report, service.api_endpoints.base_url, f"{field}.api_endpoints.base_url")
        for position, other in enumerate(service.depends_on):
            if other not in report.services:
                hint = report.hint(other, report.services)
                report.add(f"{field}.depends_on[{position}]", "unknown_service", f"unknown service {other!r}{hint}")
    for index, step in enumerate(report.plan.steps):
        own = report.services.get(step.service or (step.services[0] if step.services else ""))
        check_fallbacks(report, own.vendor if own else "", step.fallbacks or (), f"steps[{index}]")


def check_fallbacks(report: Report, vendor: str, fallbacks: tuple[str, ...], field: str) -> None:
    """Check that each fallback is a vendor at hand, and none repeats."""
    seen = {vendor}
    for position, fallback in enumerate(fallbacks):
        here = f"{field}.fallbacks[{position}]"
        _check_vendor(report, fallback, here)
        if fallback in seen:
            report.add(here, "duplicate_id", f"{fallback!r} is tried already before")
        seen.add(fallback)
