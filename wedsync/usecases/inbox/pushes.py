"""Read vendors' own lists at once when their messages only say that something changed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Collection, Mapping
from typing import Any

from temporalio.client import ScheduleOverlapPolicy
from temporalio.service import RPCError

from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.inbox.messages import reconcile_schedule_id
from wedsync.kit import logs
from wedsync.kit.temporal import RPC_TIMEOUT, ClientProvider

_log = logs.get(__name__)


@functools.lru_cache(maxsize=1000)
def learns_by_list(source: str) -> bool:
    """Tell whether a vendor's messages name no change, so that only its list does: `reconcile.BY_LIST_ALONE`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", source):
        return False
    try:
        spec = importlib.util.find_spec(f"wedsync.vendors.{source}.reconcile")
    except ModuleNotFoundError:
        return False
    return spec is not None and bool(getattr(importlib.import_module(spec.name), "BY_LIST_ALONE", False))


def is_push(source: str, facts: Any) -> bool:
    """Tell whether an event with these facts, of the platform's own channel, only says that the list has news."""
    return learns_by_list(source) and isinstance(facts, Mapping) and "channel_id" in facts


async def reconcile_now(client_provider: ClientProvider, sources: Collection[str]) -> None:
    """Have vendors' lists read; one that is being read is read once more after it. The Schedule repeats what fails."""
    for source in sorted(sources):
        try:
            handle = (await client_provider()).get_schedule_handle(reconcile_schedule_id(source))
            await handle.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE, rpc_timeout=RPC_TIMEOUT)
        except (RPCError, TemporalUnreachable, OSError, RuntimeError) as error:
            _log.warning("push_not_followed", source=source, error=type(error).__name__)
