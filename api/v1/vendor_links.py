"""`/api/v1/vendor-links/{token}`: a person reports the result of a step whose vendor has no API for it.

The link is signed and expires. Whoever holds it may answer. It shows nothing about guests.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.v1.transactions import Strict
from wedsync.usecases.weddings.answer_link import ManualAnswer, Question, Taken, answer_link, read_question

router = APIRouter(prefix="/vendor-links", tags=["vendor links"])


class LinkAnswer(Strict):
    """Answer of a vendor. `confirmed`: it is done. `declined`: it can't be had. `undone`: it was taken back."""

    answer: ManualAnswer


@router.get("/{token}", summary="See what is asked")
async def get_vendor_link(token: str, request: Request) -> Question:
    """Show what the link is about, and what may be answered now."""
    state = request.app.state
    return await read_question(state.database, state.settings, token)


@router.post("/{token}", summary="Answer")
async def answer_vendor_link(token: str, body: LinkAnswer, request: Request) -> Taken:
    """Record the answer and signal the wedding. The same answer again changes nothing."""
    state = request.app.state
    return await answer_link(state.database, state.settings, state.inbox_dispatcher, token, body.answer)
