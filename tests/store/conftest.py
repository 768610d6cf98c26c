"""A crew in the session's Redis, for tests of the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support import Crew, opened


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    """A crew with the agents a and b, whose runs are parallel. Its keys are removed when the test ends."""
    async with opened(redis_url, crew_name) as made:
        yield made
