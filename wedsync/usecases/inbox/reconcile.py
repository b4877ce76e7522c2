"""Compare a vendor's own list of its recent events with the inbox, and fill the gaps."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from wedsync.domain.errors import InvalidInput, VendorError
from wedsync.domain.inbox.clean import clean_event
from wedsync.domain.inbox.messages import Reconciled
from wedsync.domain.inbox.source import PRIORITIES, SourceAccount, SourceConfig
from wedsync.domain.inbox.triage import NewRow, priority_of
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit import logs
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import VendorHttp
from wedsync.kit.listing import Listed
from wedsync.kit.settings import Settings
from wedsync.kit.vendor import Account
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox import sources
from wedsync.store.inbox.tables import webhook_checks
from wedsync.usecases.inbox import metrics
from wedsync.usecases.inbox.pushes import learns_by_list
from wedsync.usecases.inbox.sources import Parse, by_vendor
from wedsync.vendors.registry import Registry

#: The first reading goes so far back; Stripe keeps 30 days.
FIRST_SPAN = timedelta(days=3)
#: Each reading begins so long before the last one's end: lists are not always complete at once.
OVERLAP = timedelta(minutes=10)
#: Younger events may simply be under way.
PATIENCE = timedelta(minutes=2)
_BATCH = 100
#: A list that is longer than one reading is read on for so long.
RECONCILE_SECONDS = 150.0

#: The operation's name on records of calls that read a page of a list.
LIST = "list_events"

ListEvents = Callable[[VendorHttp, Account, datetime, datetime], Awaitable[Listed]]

_log = logs.get(__name__)


def lister(registry: Registry, source: str) -> ListEvents | None:
    """Return `reconcile.list_events` of the vendor's package; None: its events can't be listed."""
    name = f"wedsync.vendors.{source}.reconcile"
    if source not in registry.manifests or importlib.util.find_spec(name) is None:
        return None
    found: ListEvents = importlib.import_module(name).list_events
    return found


def reconcile_every(registry: Registry, settings: Settings, source: str) -> timedelta | None:
    """Return how often to read the vendor's list: as the settings say, else `reconcile.EVERY` of its package.

    None: never. Raises KeyError for a vendor without a list.
    """
    if lister(registry, source) is None:
        raise KeyError(source)
    minutes = settings.vendor(source).reconcile_every_minutes
    if minutes is not None:
        return timedelta(minutes=minutes) or None
    every: timedelta = importlib.import_module(f"wedsync.vendors.{source}.reconcile").EVERY
    return every


def reconcilable(registry: Registry) -> tuple[str, ...]:
    """List the vendors whose events can be listed."""
    return tuple(name for name in sorted(registry.manifests) if lister(registry, name) is not None)


@dataclass(frozen=True)
class _Subject:
    """A vendor's list, and by which account it is read."""

    #: Its name in the inbox, and in metrics and logs.
    key: str
    label: str
    vendor: str
    list_events: ListEvents
    parse: Parse
    #: Of a registered source: whose it is, and by which account.
    account: SourceAccount | None = None
    organization_id: str | None = None
    config: SourceConfig | None = None

    def querier(self, since: datetime, until: datetime) -> Callable[[VendorHttp, Account], Awaitable[Listed]]:
        """Return what reads the list in a window, by the source's own account where it has one."""
        own = self.account.model_dump() if self.account is not None else {}
        return lambda http, account: self.list_events(http, account.model_copy(update=own), since, until)

    @property
    def account_name(self) -> str:
        """Return the account's name for quotas: a source's own account leaves the platform's alone."""
        return PLATFORM_ACCOUNT if self.organization_id is None else self.key

    def wants(self, event: VendorEvent) -> bool:
        """Tell whether the source would take an event."""
        words = self.config.event_types if self.config else ()
        return not words or event.vendor_type in words or event.type in words


class Reconciler:
    """Reconciles vendors' lists with the inbox."""

    def __init__(self, db: Database, settings: Settings, registry: Registry, gateway: VendorGateway) -> None:
        self._db = db
        self._registry = registry
        self._gateway = gateway
        self._keyring = Keyring.parse(settings.codec_keys.get_secret_value())

    async def reconcile(self, source: str, now: datetime) -> Reconciled:
        """Record what the vendor lists and the inbox lacks, from where the last reading ended.

        `source`: a vendor's name, or the id of a registered source, whose own account is then used. Raises
        StoreUnavailable, what `AdmissionController.admit` raises, and the vendor errors of `wedsync.domain.errors`.
        """
        subject = await self._subject(source)
        if subject is None:
            return Reconciled()
        async with self._db.system() as connection:
            table = webhook_checks.c
            checked: datetime | None = await connection.scalar(
                select(table.checked_until).where(table.source == source)
            )
        # What its webhooks can't have named needs no waiting for them.
        until = now if learns_by_list(subject.vendor) else now - PATIENCE
        since = now - FIRST_SPAN if checked is None else checked - OVERLAP
        ends_at, found = time.monotonic() + RECONCILE_SECONDS, Reconciled()
        while since < until:
            try:
                querier = subject.querier(since, until)
                listed = await self._gateway.query(subject.vendor, LIST, querier, account=subject.account_name)
            except VendorError:
                # An organization's own source is read again when it is due, not sooner: its account may be wrong.
                if subject.organization_id is not None:
                    await _fill(self._db, subject, [], checked or since, now)
                raise
            rows, unreadable = self._rows(subject, listed)
            # How far the list was read, and no further: the next reading reads what lies beyond.
            part = await _fill(self._db, subject, rows, max(listed.until, checked or since), now)
            found = _sum(found, part, unreadable + listed.unreadable)
            # Less would be the next reading's overlap.
            is_further = checked is None or listed.until > checked + OVERLAP
            if listed.until <= since or (is_further and time.monotonic() > ends_at):
                break
            since = listed.until
        _signal(subject, found)
        return found

    async def _subject(self, source: str) -> _Subject | None:
        """Find whose list to read by which account; None: there is no list, or no credential."""
        if source in self._registry.manifests:
            return self._built_in(source)
        async with self._db.system() as connection:
            row = await sources.by_id(connection, source)
        if row is None or row.state != "active" or row.account is None:
            return None
        config = SourceConfig.model_validate(row.config)
        list_events, module = lister(self._registry, config.scheme), self._registry.webhook(config.scheme)
        if list_events is None or module is None or config.reconcile_every_minutes is None:
            return None
        opened = self._keyring.open(row.account, tenant=row.organization_id, row=row.id)
        return _Subject(
            key=source,
            label=f"registered:{config.scheme}",
            vendor=config.scheme,
            list_events=list_events,
            parse=by_vendor(config, module.parse),
            account=SourceAccount.model_validate_json(opened),
            organization_id=row.organization_id,
            config=config,
        )

    def _built_in(self, source: str) -> _Subject | None:
        list_events, module = lister(self._registry, source), self._registry.webhook(source)
        account = self._gateway.account(source, "default")
        has_credential = bool(account.api_key or (account.client_id and account.client_secret))
        if list_events is None or module is None or not has_credential:
            return None
        return _Subject(key=source, label=source, vendor=source, list_events=list_events, parse=module.parse)

    def _rows(self, subject: _Subject, listed: Listed) -> tuple[list[NewRow], int]:
        """Return the listed events as rows, and how many could not be read: one never keeps the others out."""
        rows: list[NewRow] = []
        unreadable = 0
        for body in listed.bodies:
            try:
                events = [clean_event(event) for event in subject.parse(body, {})]
            except (InvalidInput, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                unreadable += 1
                _log.warning("webhook_unreadable", source=subject.label, error=type(error).__name__)
                continue
            rows += [self._row(subject, body, event) for event in events if subject.wants(event)]
        return rows, unreadable

    def _row(self, subject: _Subject, body: bytes, event: VendorEvent) -> NewRow:
        named = subject.config.priority if subject.config else None
        return NewRow(
            event=event,
            priority=PRIORITIES[named] if named else priority_of(event.type),
            sealed_body=self._keyring.seal(body, tenant=subject.key, row=event.event_id),
            organization_id=subject.organization_id,
        )


async def _fill(db: Database, subject: _Subject, rows: list[NewRow], until: datetime, now: datetime) -> Reconciled:
    filled: dict[str, Any] = {}
    async with db.system() as connection:
        for start in range(0, len(rows), _BATCH):
            filled |= await inbox.record(connection, subject.key, rows[start : start + _BATCH], now)
        gaps = 0 if learns_by_list(subject.vendor) else len(filled)
        values = {
            "organization_id": subject.organization_id,
            "source": subject.key,
            "checked_until": until,
            "checked_at": now,
            "looked_at": len(rows),
            "gaps": gaps,
        }
        statement = upsert(webhook_checks).values(values)
        changed = {
            "checked_until": statement.excluded.checked_until,
            "checked_at": statement.excluded.checked_at,
            "looked_at": webhook_checks.c.looked_at + statement.excluded.looked_at,
            "gaps": webhook_checks.c.gaps + statement.excluded.gaps,
        }
        await connection.execute(statement.on_conflict_do_update(index_elements=("source",), set_=changed))
    lanes = tuple(sorted(set(filled.values())))
    return Reconciled(checked=len(rows), gaps=gaps, missed=len(filled) - gaps, lanes=lanes)


def _sum(one: Reconciled, other: Reconciled, unreadable: int) -> Reconciled:
    return Reconciled(
        checked=one.checked + other.checked,
        gaps=one.gaps + other.gaps,
        missed=one.missed + other.missed,
        unreadable=one.unreadable + unreadable,
        lanes=tuple(sorted({*one.lanes, *other.lanes})),
    )


def _signal(subject: _Subject, found: Reconciled) -> None:
    if found.gaps:
        metrics.GAPS.add(found.gaps, {"source": subject.label})
        _log.warning("webhook_gaps", source=subject.key, gaps=found.gaps, checked=found.checked)
    if found.unreadable:
        metrics.UNREADABLE.add(found.unreadable, {"source": subject.label})
