"""Barriers for tests with a FakeClock."""

from __future__ import annotations

import asyncio


async def settle() -> None:
    """Lets all tasks run until each of them waits for the clock, or for something that doesn't come."""
    for _ in range(20):
        await asyncio.sleep(0)
