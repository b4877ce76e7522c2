"""Read vendors' lists of events as far as some pages reach, leaving out only what can't be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from wedsync.domain.value import Value

#: Pages of one reading.
MOST_PAGES = 200
#: A narrower window is read to its end, however many pages that takes.
_NARROWEST = timedelta(minutes=1)


class Listed(Value):
    """A list's content, and how far it was read."""

    #: Each as its webhook's body would be, in no order; some may come twice.
    bodies: tuple[bytes, ...] = ()
    #: Everything of the window that is older than this is in `bodies`.
    until: datetime
    #: Listed objects that nobody can read.
    unreadable: int = 0


class Pages(Value):
    """Some pages of a list in a window of time."""

    bodies: tuple[bytes, ...] = ()
    unreadable: int = 0
    #: The oldest moment that was seen, where more pages were left; None: the window was read to its end.
    reached: datetime | None = None


#: `(since, until, most pages)`.
Read = Callable[[datetime, datetime, int], Awaitable[Pages]]


def moment(text: object) -> datetime | None:
    """Read a time as lists write it, ISO 8601 with a zone; None: it is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


async def newest_first(read: Read, since: datetime, until: datetime) -> Listed:
    """Return the events of `[since, until)` of a list with the newest first, or those of its oldest part.

    Where the pages don't reach back to `since`, it reads the older half of what they left out, and so on: the next
    reading goes on where that ends. Raises what `read` raises.
    """
    bodies: list[bytes] = []
    while True:
        is_narrow = until - since <= _NARROWEST
        pages = await read(since, until, MOST_PAGES * (1000 if is_narrow else 1))
        bodies += pages.bodies
        if pages.reached is None or is_narrow:
            return Listed(bodies=tuple(dict.fromkeys(bodies)), until=until, unreadable=pages.unreadable)
        until = since + max(_NARROWEST, (min(until, pages.reached) - since) / 2)
