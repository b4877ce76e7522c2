"""Check a stranger's URL at its registration, by its text and by every address of its host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from wedsync.domain.errors import InvalidInput
from wedsync.domain.ssrf import ForbiddenTarget, SsrfPolicy, Target, check_addresses, read_url
from wedsync.kit.lookups import NoResolverFree, on_behalf_of, resolve

#: Returns all addresses of a host; raises OSError when there are none, NoResolverFree without a lookup.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


async def check_url(url: str, policy: SsrfPolicy, resolver: Resolver = resolve, *, owner: str = "") -> Target:
    """Check a URL that is to be registered: its text, and every address of its host now.

    `owner`: the organization whose lookup it is.

    Raises InvalidInput(field="url") with reason `url_forbidden` or `url_unresolvable`.
    """
    try:
        target = read_url(url, policy)
        with on_behalf_of(owner):
            check_addresses(await resolver(target.host, target.port), policy)
    except ForbiddenTarget as error:
        raise InvalidInput(error.detail, field="url", reason="url_forbidden") from None
    except (OSError, UnicodeError):
        raise InvalidInput("the URL's host can't be resolved", field="url", reason="url_unresolvable") from None
    except NoResolverFree:
        detail = "the URL's host can't be resolved while so many others wait for an answer: try again"
        raise InvalidInput(detail, field="url", reason="url_unresolvable") from None
    return target
