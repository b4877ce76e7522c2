from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.outgoing import PostOffice, open_post_office
from tests.support.receivers import Receiver, open_receiver


@pytest.fixture
async def office(fresh_database_urls: Any) -> AsyncIterator[PostOffice]:
    """A post office that tells no Temporal."""
    async with open_post_office(fresh_database_urls.app) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that accepts everything."""
    async with open_receiver() as opened:
        yield opened
