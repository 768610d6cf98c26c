"""What is wrong with the store's maxmemory-policy, known once for all crews.

Asked at the start, every few minutes, and when the store is back, which may be another by then. Crews with such a store
work, and say so while they do (Reason.STORE_EVICTS).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import redis.asyncio

from watchbill import metrics
from watchbill.connection import outages
from watchbill.errors import Problem, WatchbillError
from watchbill.store import eviction

logger = logging.getLogger("watchbill.operator")

ASK_SECONDS: Final = 300.0


class Eviction:
    """The answer of last time; `on_change` is called when it is another than before."""

    def __init__(self, client: redis.asyncio.Redis, on_change: Callable[[], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._found: Problem | None = None
        self._asked = asyncio.Event()
        self._ask_now = asyncio.Event()

    @property
    def message(self) -> str:
        """Empty where nothing is wrong. Doesn't name servers: what all crews say needn't change with a failover."""
        return f"{self._found.reason}. {self._found.fix}" if self._found else ""

    async def asked(self, seconds: float) -> None:
        """Returns once the store was asked; after so long if it is away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    def ask_now(self) -> None:
        self._ask_now.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._ask_now.clear()
            try:
                self._take(await outages.persist(lambda: eviction.fault(self._client)))
            except (WatchbillError, redis.exceptions.RedisError, OSError) as error:  # a right that is missing, say
                logger.warning("the store's maxmemory-policy can't be read: %s", error)
            self._asked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    await self._ask_now.wait()

    def _take(self, found: Problem | None) -> None:
        before, self._found = self._found, found
        metrics.STORE_EVICTS.set(found is not None)
        if found == before:
            return
        if found is None:
            logger.info("the store's maxmemory-policy deletes no work any more")
        else:
            logger.warning("%s", found)
        self._on_change()
