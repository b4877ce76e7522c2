"""Keep a stranger's URL from sending us where it has no business (server-side request forgery).

It checks a URL by its text, and a host by every address that it resolves to, at registration and again at each
connection, which then goes to the checked address (`kit/http_guard.py`, `kit/http_transport.py`): a name that answers
otherwise a moment later gains nothing. Pure: `kit/ssrf.py` resolves names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from wedsync.domain.errors import WedsyncError
from wedsync.domain.value import Value

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_LENGTH = 2000
#: `ipaddress` takes these for global.
_ALSO_FORBIDDEN = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "64:ff9b::/96",  # NAT64: any IPv4 address may stand behind it
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo, as well
        "2002::/16",  # 6to4, as well
        "fec0::/10",
        "ff00::/8",
    )
)
#: All public unicast IPv6.
_IPV6_PUBLIC = ipaddress.ip_network("2000::/3")
_LABELS = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: What `inet_aton` reads as a number: decimal, octal, hexadecimal.
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class ForbiddenTarget(WedsyncError):
    """We must not go to the URL, or to an address behind it."""

    code: ClassVar[str] = "url_forbidden"


class SsrfPolicy(Value):
    """Exceptions to public HTTPS."""

    #: http, and this machine itself: for `WEDSYNC_ENVIRONMENT=local` only.
    allow_loopback: bool = False


class Target(Value):
    """Target of a URL."""

    scheme: str
    host: str
    port: int


def read_url(url: str, policy: SsrfPolicy) -> Target:
    """Parse the target of a URL by its text alone; raises ForbiddenTarget.

    Refused: other schemes than https, userinfo, fragments, spaces, backslashes and control characters, hosts that are
    numbers in disguise (`2130706433`, `0177.0.0.1`, `0x7f.1`), addresses that are not public.
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise ForbiddenTarget("the URL is too long, or has characters that must be encoded")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise ForbiddenTarget("the URL can't be read") from None
    if parts.scheme not in ("https", "http"):
        raise ForbiddenTarget("the URL must begin with https://")
    if "@" in parts.netloc or parts.fragment or not host or port == 0:
        raise ForbiddenTarget("the URL may have no user, password or fragment, and needs a host")
    target = Target(scheme=parts.scheme, host=host, port=port or (443 if parts.scheme == "https" else 80))
    address = _literal(host)
    if address is not None:
        check_addresses([str(address)], policy)
    elif not _LABELS.fullmatch(host) or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        raise ForbiddenTarget("the URL's host is neither a name nor an address as it is usually written")
    is_own = host == "localhost" or (address is not None and address.is_loopback)
    if parts.scheme == "http" and not (policy.allow_loopback and is_own):
        raise ForbiddenTarget("the URL must begin with https://")
    return target


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_forbidden(address: Address, policy: SsrfPolicy) -> bool:
    """Tell whether we must not go there: not public, or a way around to what is not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return True
        if address.ipv4_mapped is not None:
            # Never what an honest name resolves to.
            return True
    if address.is_loopback:
        return not policy.allow_loopback
    if address.version == 6 and address not in _IPV6_PUBLIC:
        return True
    return not address.is_global or any(
        address in network for network in _ALSO_FORBIDDEN if network.version == address.version
    )


def check_addresses(addresses: Sequence[str], policy: SsrfPolicy) -> list[str]:
    """Check every address and return all; raises ForbiddenTarget when one is forbidden or there are none."""
    found: list[str] = []
    for text in addresses:
        address = _literal(text)
        if address is None or is_forbidden(address, policy):
            raise ForbiddenTarget("the URL's host leads to an address that is not public")
        if text not in found:
            found.append(text)
    if not found:
        raise ForbiddenTarget("the URL's host has no address")
    return found
