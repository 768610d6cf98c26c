"""Commands whose process got no time for longer than they wait for others: nothing is wrong, and they go on."""

from __future__ import annotations

import asyncio
import time

import pytest

from watchbill.cli import stores
from watchbill.connection.url import parse


async def test_a_store_is_found_though_this_process_stood_still_for_longer_than_it_waits(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    asyncio.get_running_loop().call_soon(time.sleep, 1)
    async with stores.opened(stores.Place(url=redis_url)) as target:
        assert target == parse(redis_url)
