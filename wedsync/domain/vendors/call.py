"""One call to a vendor, and its effect. Values only."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.value import Value

EffectState = Literal["done", "waiting", "absent"]


#: The platform's own account: only it has other endpoints than its own address.
PLATFORM_ACCOUNT = "default"


class Call(Value):
    """One vendor call as the saga requests it; retries carry a byte-identical value, so bodies are identical, too."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    step_id: str
    vendor: str
    #: The vendor's account; `default` is the platform's own. For `generic` the business: `villa-aurora`.
    account: str = PLATFORM_ACCOUNT
    action: str
    operation: str
    #: At most 64 characters of [A-Za-z0-9-_], the same for every attempt of this round.
    idempotency_key: str
    #: Our name for the effect, stable over retries: 32 characters of [0-9a-v] (Google's event id alphabet).
    reference: str
    #: The action's inputs, references resolved, in the shape of the catalogue's input model.
    inputs: dict[str, JsonValue]
    #: Results of the step's earlier operations (`external_id` and facts), or, for an undo, of its action.
    facts: dict[str, JsonValue] = {}
    #: For a change: the inputs in effect now. Empty otherwise.
    previous_inputs: dict[str, JsonValue] = {}
    #: The generic vendor's endpoints as the plan's service gives them; empty for all others.
    endpoints: dict[str, JsonValue] = {}
    #: No attempt was sent before this moment: a `find` starts here.
    first_sent_at: datetime
    locale: str = "en"


class Effect(Value):
    """Effect of a call, or the finding of a `find` or probe."""

    #: `done`; `waiting` (accepted, a webhook brings the confirmation); `absent` (nothing there, nothing to undo).
    state: EffectState
    #: The vendor's id of the object.
    external_id: str | None = None
    #: Results that later steps may refer to, as the catalogue names them (`payment_id`, `event_id`), plus what
    #: the undo needs. JSON, small, no secrets.
    facts: dict[str, JsonValue] = {}
    #: The object's version at the vendor, to notice foreign changes.
    etag: str | None = None
    #: A digest of what we wrote there, as it reads now: the version changes, too, when a guest answers an invitation.
    content: str | None = None
    #: A fact for people, in English, without guests' data: "refund re_1 created".
    detail: str = ""


def content_digest(written: Mapping[str, JsonValue]) -> str:
    """Return 22 characters that change with the content at the vendor."""
    text = json.dumps(written, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")
