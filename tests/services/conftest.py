from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from runtimes import Runtime


@pytest.fixture
async def runtime(redis_url: str, redis_client: redis.asyncio.Redis) -> AsyncIterator[Runtime]:
    found = Runtime(redis_url, redis_client)
    async with found.stack:
        yield found
