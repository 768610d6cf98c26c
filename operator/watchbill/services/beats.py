"""The heartbeats of a service at work: they are stored and fired, and removed once no service has them any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import redis.asyncio

from watchbill.api import Heartbeat
from watchbill.clock import Clock
from watchbill.connection import outages
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.scheduler import Scheduler
from watchbill.store import incarnations, service_heartbeats

logger = Logger("watchbill.services")

HOLDS: Final = timedelta(minutes=10)
"""A service that died without a word, on another host, keeps its heartbeats in the store for so long."""
SAY_SECONDS: Final = 5.0
"""Seconds between two times that a living service says which heartbeats it fires."""


class Beats:
    """The heartbeats that one service fires. Services of other configurations may share its crew."""

    def __init__(
        self, client: redis.asyncio.Redis, keys: CrewKeys, heartbeats: Sequence[Heartbeat], clock: Clock
    ) -> None:
        self._client = client
        self._keys = keys
        self._heartbeats = heartbeats
        self._clock = clock
        self._scheduler = Scheduler(client, clock)
        self._name = incarnations.fresh()
        self._uid = ""
        self._say_at = clock.monotonic()

    def __len__(self) -> int:
        return len(self._heartbeats)

    async def start(self, uid: str) -> None:
        """Fires them from now on. `uid`: the crew's. Waits while the store is away."""
        await outages.persist(lambda: self.keep(uid))
        await self._scheduler.start()

    async def stop(self) -> None:
        """Ends firing."""
        await self._scheduler.stop()

    async def leave(self) -> None:
        """Says that this service fires none any more. They stay until another service starts that has others. Raises
        StoreUnavailable, CrewGone."""
        if self._uid:
            await service_heartbeats.fires_none(self._client, self._keys, self._uid, self._name)

    def lost(self) -> None:
        """Lets the next `keep` store them anew: the store has lost them."""
        self._uid = ""

    async def keep(self, uid: str) -> None:
        """Says which heartbeats this service fires, when that is due, and removes those that nobody fires. Stores its
        own where they are not: at first, and when the store has lost them. Safe to be called again. Raises
        StoreUnavailable, CrewGone."""
        if uid == self._uid and self._clock.monotonic() < self._say_at:
            return
        names = [heartbeat.name for heartbeat in self._heartbeats]
        was_known, removed = await service_heartbeats.fires(
            self._client, self._keys, uid, self._name, names, holds=HOLDS
        )
        for name in removed:
            logger.info("heartbeat %s/%s was removed: no service has it any more", self._keys.crew, name)
        if not was_known or uid != self._uid:
            for heartbeat in self._heartbeats:
                await self._scheduler.add(self._keys, uid, heartbeat)
        self._uid, self._say_at = uid, self._clock.monotonic() + SAY_SECONDS
