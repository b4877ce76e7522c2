"""Messages to a wedding's workflow: its start, requests, vendor events."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

TransactionKind = Literal["orchestrate", "scheduled", "timeline", "detail", "amendment", "undo"]
TransactionStatus = Literal[
    "running", "waiting", "held", "completed", "rolling_back", "rolled_back", "needs_attention", "cancelled"
]
StepStatus = Literal["pending", "scheduled", "running", "waiting", "held", "succeeded", "failed", "skipped"]
CompensationStatus = Literal["pending", "running", "undone", "nothing_to_undo", "needs_attention"]
Choice = Literal["retry", "skip", "use", "rollback"]


class Message(BaseModel):
    """Frozen; unknown keys are kept out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _with(self, **changes: Any) -> Self:
        """Copy the value with some fields changed; a misspelt field or a wrong value raises ValidationError.

        For the named methods of each type: code outside changes a value by a method that says what happened to it.
        """
        cls = type(self)
        try:
            checked = {name: _checked_by(cls, name)(value) for name, value in changes.items()}
        except (KeyError, ValidationError):
            # The whole value says which field is wrong.
            return self.model_validate({**self.__dict__, **changes})
        return self.model_copy(update=checked)


@functools.cache
def _checked_by(kind: type[BaseModel], name: str) -> Callable[[Any], Any]:
    """Give what checks one field's new value; what stands was checked when it was set. Raises KeyError."""
    field = kind.model_fields[name]
    annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(annotation).validate_python


class Decision(Message):
    """A person's decision on a held step."""

    step_id: str
    choice: Choice
    #: For `use`: the vendor to use.
    vendor: str | None = None


class TransactionRequest(Message):
    """`transactions.request`: one request, by kind. Stored as JSON and passed to the wedding unchanged.

    orchestrate: nothing more. undo: `target`, or `everything` for the whole wedding; with `cancel` the target ends as
    `cancelled`. timeline: `ceremony_at` (wall time), perhaps `zone`. scheduled: `decision`, or none when the wedding's
    own agenda made it.
    """

    id: str
    kind: TransactionKind
    #: The transaction's number within the wedding: 1, 2, 3, ...
    seq: int = Field(ge=1)
    target: str | None = None
    everything: bool = False
    cancel: bool = False
    ceremony_at: str | None = None
    zone: str | None = None
    decision: Decision | None = None


class WeddingStart(Message):
    """Input of the workflow `Wedding` (`wedding:{wedding_id}`, queue `workflows`)."""

    wedding_id: str
    organization_id: str
    #: The plan's own id.
    reference: str
    plan_version: int
    #: The ceremony's venue-local date, for the search attribute.
    date: str


#: Registered names.
WEDDING_WORKFLOW = "Wedding"
DRAIN_INBOX_WORKFLOW = "DrainInbox"
REDISPATCH_PENDING_WORKFLOW = "SweepHandoffs"
#: Update of `Wedding`: TransactionRequest in, its id out; a known id gets the same answer.
SUBMIT_UPDATE = "submit"
#: Update of `Wedding`: nothing in, the number of steps written anew out.
REPAIR_UPDATE = "repair"
#: Signal of `Wedding`: a VendorEvent.
VENDOR_EVENT_SIGNAL = "vendor_event"


def wedding_workflow_id(wedding_id: str) -> str:
    """Return `wedding:{wedding}`."""
    return f"wedding:{wedding_id}"
