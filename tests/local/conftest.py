"""The fixtures of the scheduler's tests: a crew in the session's store, and a clock that a test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scheduled import NOON, Crew, make_crew

from watchbill import connection
from watchbill.testing import FakeClock


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        yield await make_crew(client, crew_name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)
