"""The certificates that PayPal signs its webhooks with: where they may come from, and whom they must name.

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
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wedsync.domain.errors import VendorError
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp

PATH = "/v1/notifications/certs/"
_HOSTS = frozenset({"api.paypal.com", "api-m.paypal.com", "api.sandbox.paypal.com", "api-m.sandbox.paypal.com"})
_SIGNERS = ("messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
_MAX_BYTES = 64 * 1024
_MAX_KEPT = 32
#: An address that gave nothing is left alone so long, and so are all new ones after too many failures.
_PAUSE = timedelta(seconds=60)
_MAX_FAILURES = 20


def is_official(url: str) -> bool:
    """Whether `url` is one of PayPal's own addresses for certificates."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = port is None and not parts.username and not parts.query and not parts.fragment
    return plain and parts.scheme == "https" and parts.hostname in _HOSTS and parts.path.startswith(PATH)


def is_loopback(url: str) -> bool:
    """Whether `url` names this very machine by a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def public_roots() -> tuple[x509.Certificate, ...]:
    """The roots that browsers trust."""
    roots = []
    for pem in _PEM.findall(Path(certifi.where()).read_bytes()):
        # Some old root has a serial number that is against RFC 5280, and is not needed here.
        with warnings.catch_warnings(), suppress(ValueError):
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            roots.append(x509.load_pem_x509_certificate(pem))
    return tuple(roots)


def trusted_key(pem: bytes, roots: Sequence[x509.Certificate], now: datetime) -> rsa.RSAPublicKey | None:
    """The key of the first certificate in `pem` when it is PayPal's signer's and leads to one of `roots` at `now`.

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
    """What was fetched, by address. Trust is decided at each use, because certificates expire."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, tuple[x509.Certificate, ...]]] = OrderedDict()
        self._failures: OrderedDict[str, datetime] = OrderedDict()
        #: One fetches what several wait for.
        self._under_way: dict[str, asyncio.Lock] = {}

    def keep(self, url: str, pem: bytes, roots: Sequence[x509.Certificate]) -> None:
        """Keep what `url` gave, to be trusted under `roots`."""
        self._kept[url] = (pem, tuple(roots))
        self._kept.move_to_end(url)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)

    def key(self, url: str, now: datetime) -> rsa.RSAPublicKey | None:
        """The trusted key of the certificate at `url`; None when it is not at hand or not to be trusted."""
        found = self._kept.get(url)
        return None if found is None else trusted_key(found[0], found[1], now)

    async def fetch(self, url: str, http: VendorHttp) -> None:
        """Have the certificate at `url` at hand, if it may be fetched and can be.

        Only PayPal's own addresses are asked, and, when the account's base URL is a loopback address (the sandbox),
        those beneath it, whose root is then trusted too.
        """
        local = is_loopback(http.base_url) and url.startswith(http.base_url + PATH)
        if url in self._kept or not (local or is_official(url)) or not self._may_try(url, utc_now()):
            return
        lock = self._under_way.setdefault(url, asyncio.Lock())
        async with lock:
            try:
                if url not in self._kept and url not in self._failures:
                    await self._fetch(url, http, local=local)
            finally:
                self._under_way.pop(url, None)

    async def _fetch(self, url: str, http: VendorHttp, *, local: bool) -> None:
        now = utc_now()
        try:
            pem = (await http.request("GET", url)).body
            roots: Sequence[x509.Certificate] = public_roots()
            if local:
                root = (await http.request("GET", f"{http.base_url}{PATH}root")).body
                roots = x509.load_pem_x509_certificates(root)
        except (VendorError, ValueError):
            self._failures[url] = now
            return
        if len(pem) <= _MAX_BYTES and trusted_key(pem, roots, now) is not None:
            self.keep(url, pem, roots)
        else:
            self._failures[url] = now

    def _may_try(self, url: str, now: datetime) -> bool:
        while self._failures and now - next(iter(self._failures.values())) > _PAUSE:
            self._failures.popitem(last=False)
        if url in self._under_way:
            return True
        return url not in self._failures and len(self._failures) + len(self._under_way) < _MAX_FAILURES
