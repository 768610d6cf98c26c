"""Both kinds of each class, so that one test says what both do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import twins


@pytest.fixture(params=["sync", "async"])
async def twin(request: pytest.FixtureRequest) -> AsyncIterator[twins.Twin]:
    """Makes the classes of one kind, and closes what it has made when the test ends."""
    made = twins.Twin(is_async=request.param == "async")
    try:
        yield made
    finally:
        await made.close()
