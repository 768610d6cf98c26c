"""Finds out, once for all crews, whether the store's maxmemory-policy may delete work.

The store is asked at the start, every few minutes, and when it is back: it may be another store by then. Crews take
work all the same, and their statuses name the danger (Reason.STORE_EVICTS).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import redis.asyncio

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock, wait_for_event
from watchbill.connection import outages
from watchbill.errors import Problem, WatchbillError
from watchbill.store import eviction

logger = logging.getLogger("watchbill.operator")

ASK_SECONDS: Final = 300.0


class Eviction:
    """Keeps the store's last answer. `on_change` is called when an answer differs from the one before."""

    def __init__(self, client: redis.asyncio.Redis, on_change: Callable[[], None], clock: Clock = SYSTEM) -> None:
        self._client = client
        self._on_change = on_change
        self._clock = clock
        self._found: Problem | None = None
        self._asked = asyncio.Event()
        self._ask_now = asyncio.Event()

    @property
    def message(self) -> str:
        """The fault and its fix; empty where there is none. It names no server, or a failover would change the statuses
        of all crews."""
        return self._found.said if self._found else ""

    async def asked(self, seconds: float) -> None:
        """Returns once the store has been asked, and after so many seconds in any case."""
        await wait_for_event(self._asked, seconds, self._clock)

    def ask_now(self) -> None:
        """The store may be another one: asks before the next time is due."""
        self._ask_now.set()

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            self._ask_now.clear()
            try:
                self._note(await outages.persist(lambda: eviction.fault(self._client)))
            except (WatchbillError, redis.exceptions.RedisError, OSError) as error:  # such as a right that is missing
                logger.warning("the store's maxmemory-policy can't be read: %s", error)
            self._asked.set()
            await wait_for_event(self._ask_now, ASK_SECONDS, self._clock)

    def _note(self, found: Problem | None) -> None:
        before, self._found = self._found, found
        metrics.STORE_EVICTS.set(found is not None)
        if found == before:
            return
        if found is None:
            logger.info("the store's maxmemory-policy no longer deletes work")
        else:
            logger.warning("%s", found)
        self._on_change()
