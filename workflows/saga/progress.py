"""What a running transaction shows between its beginning and its end. Best effort: its settling writes it all again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.errors import ACTIVITY_FAILED
    from activities.weddings import ShowProgress, WeddingActivities, WeddingHeader
    from wedsync.domain.weddings.transaction_state import TransactionState

#: A rollback waits for its watchers no longer than this.
_TIMEOUT = timedelta(seconds=2)


class Progress:
    """Shows how one transaction stands to whoever watches."""

    def __init__(self, state: TransactionState, header: Callable[[], WeddingHeader]) -> None:
        self._state = state
        self._header = header

    def next_version(self) -> int:
        """Number the next write."""
        return self._header().version

    async def show(self, step_ids: Iterable[str], summary: str, *, is_rolling_back: bool = False) -> None:
        """Write these steps as they stand now, and that the transaction rolls back."""
        state, tx = self._state, self._state.transaction_id
        wanted = ShowProgress(
            header=self._header(),
            transaction_id=tx,
            is_rolling_back=is_rolling_back,
            steps=tuple(state.step(step_id) for step_id in step_ids),
        )
        try:
            await workflow.execute_local_activity_method(
                WeddingActivities.show_progress,
                wanted,
                start_to_close_timeout=_TIMEOUT,
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary=summary,
            )
        except ACTIVITY_FAILED:
            workflow.logger.warning("progress.not_shown", extra={"transaction_id": tx})
