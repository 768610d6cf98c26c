"""Tasks whose agent the worker that claimed them doesn't have: they are set aside, for one that has it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import redis

from watchbill.agents.loading import AgentLoader
from watchbill.connection import Persist
from watchbill.errors import AgentNotLoadable, WatchbillError
from watchbill.store import definitions
from watchbill.store.queue import Queue

UNPARK_SECONDS: Final = 30.0
"""How often a worker looks for parked tasks whose agent it has."""
UNPARK_AGAIN_SECONDS: Final = 1.0
"""After something was brought back: a worker without the agent, an older one, may have taken and parked it again."""


async def bring_back(queue: Queue, loader: AgentLoader, persist: Persist) -> None:
    """Puts what others parked back onto the stream, where `loader` has its agent. Until it is cancelled."""
    while True:
        brought = 0
        with suppress(WatchbillError, redis.exceptions.RedisError):  # NotFound, say: the crew may come back
            for agent, members in (await persist(queue.parked_agents)).items():
                if await _has(queue, loader, persist, agent):
                    brought += await persist(lambda m=members: queue.unpark(m))  # type: ignore[misc]
        await asyncio.sleep(UNPARK_AGAIN_SECONDS if brought else UNPARK_SECONDS)


async def _has(queue: Queue, loader: AgentLoader, persist: Persist, agent: str) -> bool:
    crew = (await persist(lambda: definitions.current(queue.client, queue.keys))).definition
    definition = crew.agent(agent)
    if definition is None:
        return True  # it will fail, and say so
    try:
        loader.load(crew, definition)
        loader.tools(crew, definition)
    except AgentNotLoadable:
        return False
    return True
