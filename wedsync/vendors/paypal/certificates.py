"""Checks the certificates that PayPal signs its webhooks with: where they come from and whom they name.

https://developer.paypal.com/api/rest/webhooks/rest/#verify-the-message
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wedsync.domain.errors import OutcomeUnknown, VendorError, VendorUnavailable
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp

PATH = "/v1/notifications/certs/"
_HOSTS = frozenset({"api.paypal.com", "api-m.paypal.com", "api.sandbox.paypal.com", "api-m.sandbox.paypal.com"})
_SIGNERS = ("messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
_MAX_BYTES = 64 * 1024
_MAX_KEPT = 32
#: An address that gave nothing is left alone so long; one that could not be reached, for a moment only.
_PAUSE = timedelta(seconds=60)
_SHORT_PAUSE = timedelta(seconds=5)
#: New addresses that come to nothing within a pause: of one sender, and of all. Whoever is not PayPal uses up its own.
_MOST_OF_ONE = 20
_MOST_OF_ALL = 400
_ALL = ""
#: The most senders and addresses that are remembered.
_MOST_REMEMBERED = 5000


def is_official(url: str) -> bool:
    """Tell whether `url` is one of PayPal's own addresses for certificates."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = port is None and not parts.username and not parts.query and not parts.fragment
    return plain and parts.scheme == "https" and parts.hostname in _HOSTS and parts.path.startswith(PATH)


def is_loopback(url: str) -> bool:
    """Tell whether `url` names this very machine by a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def public_roots() -> tuple[x509.Certificate, ...]:
    """Return the roots that browsers trust."""
    roots = []
    for pem in _PEM.findall(Path(certifi.where()).read_bytes()):
        # Some old root has a serial number that is against RFC 5280, and is not needed here.
        with warnings.catch_warnings(), suppress(ValueError):
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            roots.append(x509.load_pem_x509_certificate(pem))
    return tuple(roots)


def trusted_key(pem: bytes, roots: Sequence[x509.Certificate], now: datetime) -> rsa.RSAPublicKey | None:
    """Return the key of the first certificate in `pem` if it is PayPal's signer's and leads to one of `roots` at `now`.

    The rest of `pem` is taken as intermediates. None for anything else, malformed input included.
    """
    try:
        leaf, *between = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return None
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not roots:
        return None
    builder = PolicyBuilder().store(Store(list(roots))).time(now)
    for name in _SIGNERS:
        try:
            builder.build_server_verifier(x509.DNSName(name)).verify(leaf, between)
        except VerificationError:
            continue
        return key
    return None


class Certificates:
    """Fetched certificates by address. Trust is decided at each use, because certificates expire."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, tuple[x509.Certificate, ...]]] = OrderedDict()
        #: Addresses that gave a trusted certificate once: they are never held off for others' sake.
        self._good: OrderedDict[str, None] = OrderedDict()
        #: Until when an address is left alone.
        self._failures: OrderedDict[str, datetime] = OrderedDict()
        #: When each sender's tries ended in nothing, or began; the empty sender stands for all of them.
        self._tries: OrderedDict[str, list[datetime]] = OrderedDict()
        #: One fetches what several wait for.
        self._under_way: dict[str, asyncio.Lock] = {}

    def keep(self, url: str, pem: bytes, roots: Sequence[x509.Certificate]) -> None:
        """Keep what `url` gave, to be trusted under `roots`."""
        _remember(self._kept, url, (pem, tuple(roots)), _MAX_KEPT)
        _remember(self._good, url, None, _MOST_REMEMBERED)

    def key(self, url: str, now: datetime) -> rsa.RSAPublicKey | None:
        """Return the trusted key of the certificate at `url`; None when it is not at hand or not to be trusted."""
        found = self._kept.get(url)
        return None if found is None else trusted_key(found[0], found[1], now)

    async def fetch(self, url: str, http: VendorHttp, *, client: str = "") -> None:
        """Fetch the certificate at `url` for a message from `client`, if it may be fetched, and keep it at hand.

        Only PayPal's own addresses are asked, and, when the account's base URL is a loopback address (the sandbox),
        those beneath it, whose root is then trusted too.
        """
        local = is_loopback(http.base_url) and url.startswith(http.base_url + PATH)
        if url in self._kept or not (local or is_official(url)) or not self._may_try(url, client, utc_now()):
            return
        lock = self._under_way.setdefault(url, asyncio.Lock())
        async with lock:
            try:
                if url not in self._kept and url not in self._failures:
                    await self._fetch(url, http, client, local=local)
            finally:
                self._under_way.pop(url, None)

    async def _fetch(self, url: str, http: VendorHttp, client: str, *, local: bool) -> None:
        now = utc_now()
        tries = [self._tries_of(sender, now) for sender in {_sender(client), _ALL}]
        for one in tries:
            one.append(now)
        try:
            pem = (await http.request("GET", url)).body
            roots: Sequence[x509.Certificate] = public_roots()
            if local:
                root = (await http.request("GET", f"{http.base_url}{PATH}root")).body
                roots = x509.load_pem_x509_certificates(root)
        except (VendorError, ValueError) as error:
            pause = _SHORT_PAUSE if isinstance(error, VendorUnavailable | OutcomeUnknown) else _PAUSE
            _remember(self._failures, url, now + pause, _MOST_REMEMBERED)
            return
        if len(pem) <= _MAX_BYTES and trusted_key(pem, roots, now) is not None:
            self.keep(url, pem, roots)
            for one in tries:
                with suppress(ValueError):
                    one.remove(now)
        else:
            _remember(self._failures, url, now + _PAUSE, _MOST_REMEMBERED)

    def _may_try(self, url: str, client: str, now: datetime) -> bool:
        if self._failures.get(url, now) > now:
            return False
        self._failures.pop(url, None)
        if url in self._under_way or url in self._good:
            return True
        of_one, of_all = self._tries_of(_sender(client), now), self._tries_of(_ALL, now)
        return len(of_one) < _MOST_OF_ONE and len(of_all) < _MOST_OF_ALL

    def _tries_of(self, sender: str, now: datetime) -> list[datetime]:
        tries = self._tries.get(sender, [])
        tries[:] = [moment for moment in tries if now - moment <= _PAUSE]
        _remember(self._tries, sender, tries, _MOST_REMEMBERED)
        return tries


def _sender(client: str) -> str:
    """Return the sender whose tries count together: an address, or the network that one holder of IPv6 has."""
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client or "unknown"
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else client


def _remember(kept: OrderedDict[str, Any], name: str, value: object, most: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > most:
        kept.popitem(last=False)
