"""Find the sources that may post: vendors and services with the settings' secrets, and organizations' own."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from wedsync.domain.errors import InvalidInput, NotFound, StoreUnavailable
from wedsync.domain.inbox.mapped import has_header_id, parse_mapped
from wedsync.domain.inbox.source import PRIORITIES, HmacOptions, SourceConfig
from wedsync.domain.inbox.token_bucket import Limit
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import VendorHttp
from wedsync.kit.settings import Settings
from wedsync.kit.signatures.handshakes import Handshake
from wedsync.kit.signatures.hmac_sha256 import signed_bytes
from wedsync.kit.standard_webhooks import read_envelope
from wedsync.store.db.session import Database
from wedsync.store.inbox import sources as store
from wedsync.usecases.inbox.schemes import HMAC_SCHEMES, SCHEMES, STANDARD_SCHEMES, Verify, hmac_scheme
from wedsync.vendors.registry import Registry

#: Per vendor and process; a flood beyond it gets 429, and the source sends again.
DEFAULT_LIMIT = Limit(per_second=2000.0, burst=20_000.0)
#: Services that are no vendors of ours: known by their scheme alone, with the settings' secrets.
SERVICES = ("slack", "zoom", "github", "meta", "zapier", "svix", "standard_webhooks")
#: The service that shows a token of its own in its handshake.
_META = "meta"
#: A registered source is read anew after so long: a rotation reaches every process by then.
_FRESH_SECONDS = 1.0
_MAX_KEPT = 2000
#: Reads of registered sources under way at once, and messages that wait for one: those beyond are refused.
_MOST_READS = 100
_MOST_READERS = 2000
#: The address of the platform's own connection to a vendor.
DEFAULT_CONNECTION = "default"

Parse = Callable[[bytes, Mapping[str, str]], list[VendorEvent]]
ReplayKey = Callable[[bytes, Mapping[str, str]], bytes]


class Prepare(Protocol):
    """Get what `verify` needs for a message with `headers` from `client`; never raises, `verify` says no."""

    def __call__(self, headers: Mapping[str, str], http: VendorHttp, /, *, client: str) -> Awaitable[None]: ...


@dataclass(frozen=True)
class Source:
    """One source, with all that its messages are judged by."""

    #: Its name in the inbox: a vendor's or service's name, or a registered source's id.
    key: str
    #: Its name in metrics and logs.
    label: str
    #: The vendor whose transport `prepare` needs.
    vendor: str
    verify: Verify
    parse: Parse
    #: `(secret, when it ends)`, newest first.
    secrets: tuple[tuple[str, datetime | None], ...]
    organization_id: str | None = None
    handshake: Handshake | None = None
    is_handshake_signed: bool = False
    #: The token by which the source proves our address, where that is none of its secrets.
    verify_token: str = ""
    #: The digest of what a message's signature covers, where that is not its id; None: the id suffices.
    replay_key: ReplayKey | None = None
    prepare: Prepare | None = None
    limit: Limit = DEFAULT_LIMIT
    config: SourceConfig | None = None

    def active_secrets(self, now: datetime) -> tuple[str, ...]:
        """List the secrets that are valid at that moment."""
        return tuple(secret for secret, ends_at in self.secrets if ends_at is None or now < ends_at)

    def handshake_secrets(self, now: datetime) -> tuple[str, ...]:
        """List the secrets that answer a handshake at that moment."""
        return (self.verify_token,) if self.verify_token else self.active_secrets(now)

    @property
    def priority(self) -> int | None:
        """Return the priority of all its events; None: by their type."""
        named = self.config.priority if self.config else None
        return PRIORITIES[named] if named else None


class SourceRegistry:
    """Finds the source at an address; keeps registered ones for a second."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        registry: Registry,
        keyring: Keyring,
        limit: Limit,
        timeout_seconds: float,
    ) -> None:
        self._settings = settings
        self._db = db
        self._registry = registry
        self._keyring = keyring
        self._limit = limit
        self._built_in: dict[str, Source | None] = {}
        self._timeout_seconds = timeout_seconds
        self._kept: OrderedDict[tuple[str, str], tuple[float, Source | None]] = OrderedDict()
        self._reads: dict[tuple[str, str], asyncio.Task[Source | None]] = {}
        self._readers = 0

    async def find(self, path: str, connection: str = "") -> Source:
        """Return the source; raises NotFound, and StoreUnavailable at the latest after `timeout_seconds`."""
        if connection in ("", DEFAULT_CONNECTION):
            built_in = self.built_in(path)
            if built_in is not None:
                return built_in
        found = await self._registered(path, connection)
        if found is None:
            raise NotFound("no such webhook source")
        return found

    def built_in(self, name: str) -> Source | None:
        """Return the vendor or service of that name, as the settings have it."""
        if name not in self._built_in and (name in self._registry.manifests or name in SERVICES):
            self._built_in[name] = self._make_built_in(name)
        return self._built_in.get(name)

    def _make_built_in(self, name: str) -> Source | None:
        secrets = tuple((secret, None) for secret in self._settings.vendor_webhook_secrets(name))
        module = self._registry.webhook(name)
        if module is not None:
            return Source(
                key=name,
                label=name,
                vendor=name,
                verify=module.verify,
                parse=module.parse,
                secrets=secrets,
                handshake=getattr(module, "handshake", None),
                prepare=getattr(module, "prepare", None),
                limit=self._limit,
            )
        if name not in SERVICES or not secrets:
            return None
        scheme = SCHEMES[name]
        config = SourceConfig.model_validate({"scheme": name})
        return Source(
            key=name,
            label=name,
            vendor=name,
            verify=scheme.verify,
            parse=_mapped(config),
            secrets=secrets,
            handshake=scheme.handshake,
            is_handshake_signed=scheme.is_handshake_signed,
            verify_token=self._settings.vendor(name).verify_token.get_secret_value() if name == _META else "",
            replay_key=_replay_key(config),
            limit=self._limit,
        )

    async def _registered(self, path: str, connection: str) -> Source | None:
        key = (path, connection)
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() - kept[0] < _FRESH_SECONDS:
            return kept[1]
        if len(path) > 100 or len(connection) > 64 or not (path + connection).isascii() or "\x00" in path + connection:
            return None
        found = await self._read_in_time(key)
        self._kept[key] = (time.monotonic(), found)
        self._kept.move_to_end(key)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return found

    async def _read_in_time(self, key: tuple[str, str]) -> Source | None:
        """Read what Postgres holds at that address, once for all that request it meanwhile."""
        read = self._reads.get(key)
        if self._readers >= _MOST_READERS or (read is None and len(self._reads) >= _MOST_READS):
            raise StoreUnavailable("too many messages wait for the database", reason="full")
        if read is None:
            read = self._reads[key] = asyncio.create_task(self._read(*key), name="read-webhook-source")
            read.add_done_callback(lambda done: self._end_read(key, done))
        self._readers += 1
        try:
            # Not `asyncio.timeout`: ending a query that hangs takes psycopg some seconds more.
            await asyncio.wait({read}, timeout=self._timeout_seconds)
        finally:
            self._readers -= 1
        if not read.done():
            read.cancel()
        if not read.done() or read.cancelled():
            raise StoreUnavailable("the database does not answer", reason="timeout")
        return read.result()

    def _end_read(self, key: tuple[str, str], read: asyncio.Task[Source | None]) -> None:
        del self._reads[key]
        if not read.cancelled():
            # Retrieved, so that a failure for which nobody waits any more is not reported as forgotten.
            read.exception()

    async def close(self) -> None:
        """End what is being read."""
        for read in self._reads.values():
            read.cancel()
        await asyncio.gather(*self._reads.values(), return_exceptions=True)

    async def _read(self, path: str, connection: str) -> Source | None:
        async with self._db.system() as conn:
            row = await (store.by_connection(conn, path, connection) if connection else store.at_path(conn, path))
            secrets = await store.list_secrets(conn, row.id) if row is not None else []
        return None if row is None or row.state != "active" else self._make_registered(row, secrets)

    def _make_registered(self, row: Any, secrets: Sequence[Any]) -> Source:
        config = SourceConfig.model_validate(row.config)
        opened = tuple(
            (self._keyring.open(one.sealed, tenant=row.organization_id, row=one.id).decode(), one.expires_at)
            for one in secrets
        )
        module = self._registry.webhook(config.scheme)
        scheme = SCHEMES.get(config.scheme)
        verify = module.verify if module is not None else scheme.verify if scheme is not None else None
        if verify is None:
            raise InvalidInput(f"the scheme {config.scheme!r} is not known")
        if config.scheme == "hmac_sha256":
            verify = hmac_scheme(config.hmac or HmacOptions())
        return Source(
            key=row.id,
            label=f"registered:{config.scheme}",
            vendor=config.scheme,
            verify=verify,
            parse=_mapped(config) if module is None or config.paths is not None else by_vendor(config, module.parse),
            secrets=opened,
            organization_id=row.organization_id,
            handshake=scheme.handshake if scheme else None,
            is_handshake_signed=scheme.is_handshake_signed if scheme else False,
            verify_token=config.verify_token if config.scheme == _META else "",
            replay_key=_replay_key(config),
            prepare=getattr(module, "prepare", None),
            limit=Limit(per_second=config.rate_per_second, burst=config.burst),
            config=config,
        )


def _mapped(config: SourceConfig) -> Parse:
    def read(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
        # The envelope that was verified, whichever spelling of its headers that was.
        envelope = read_envelope(headers) if config.scheme in STANDARD_SCHEMES else None
        return parse_mapped(config, body, headers, envelope.message_id if envelope else None)

    return read


def _replay_key(config: SourceConfig) -> ReplayKey | None:
    """Return what digests a message whose id is in a header: an HMAC covers the body, and its time at most."""
    options = config.hmac or HmacOptions() if config.scheme == "hmac_sha256" else HMAC_SCHEMES.get(config.scheme)
    if options is None or not has_header_id(config):
        return None
    return lambda body, headers: hashlib.sha256(signed_bytes(body, headers, options)).digest()


def by_vendor(config: SourceConfig, parse: Parse) -> Parse:
    """Read an event as its vendor does, under the names of a registered source."""

    def read(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
        return [
            event.model_copy(
                update={
                    "source": config.vendor or event.source,
                    "type": config.type_map.get(event.vendor_type, event.type),
                }
            )
            for event in parse(body, headers)
        ]

    return read
