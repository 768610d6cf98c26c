"""A crew in the session's Redis, and clients of it. The crew's workers are the simple ones of the queue's tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchbill.client import Client

sys.path.append(str(Path(__file__).parents[1] / "store"))

from support import Crew, opened


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    """A crew with the agents a and b, whose runs are parallel. Its keys are removed when the test ends."""
    async with opened(redis_url, crew_name) as made:
        yield made


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, namespace="test") as made:
        yield made
