"""A worker that is idle loads all agents of its crew, and tells the store once all could be loaded.

So it is known before its first task that a class isn't there, can't be imported, or lacks the key of its model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from watchbill.agents.loading import AgentLoader
from watchbill.connection.outages import Persist
from watchbill.errors import AgentNotLoadable, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.records import CrewDefinition
from watchbill.store import definitions
from watchbill.store.queue import Queue

logger = Logger("watchbill.worker")

FIRST_SECONDS: Final = 1.0
"""After the start: work that waits comes first, and loads what it needs."""
LOOK_SECONDS: Final = 10.0
"""How often it is looked whether the crew has changed."""


async def preload(queue: Queue, loader: AgentLoader, persist: Persist, is_idle: Callable[[], bool]) -> None:
    """Until it is cancelled. An import holds up the event loop, so none begins unless `is_idle`."""
    tried = ""
    pause = FIRST_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = LOOK_SECONDS
        there = await persist(lambda: definitions.identity(queue.client, queue.keys))
        digest = there.definition
        if there.uid != queue.uid or digest in ("", tried, there.loaded):
            continue
        if not is_idle():
            pause = FIRST_SECONDS
            continue
        tried = digest
        try:
            crew = await persist(lambda d=digest: definitions.load(queue.client, queue.keys, d))  # type: ignore[misc]
        except (NotFound, NewerRecord):  # replaced meanwhile, or told elsewhere
            continue
        if await _load_all(crew, loader, queue.keys.crew):
            await persist(lambda d=digest: definitions.record_loaded(queue.client, queue.keys, queue.uid, d))  # type: ignore[misc]


async def _load_all(crew: CrewDefinition, loader: AgentLoader, name: str) -> bool:
    all_loaded = True
    for agent in crew.agents:
        await asyncio.sleep(0)
        try:
            loader.load(crew, agent)
            loader.tools(crew, agent)
        except AgentNotLoadable as error:
            logger.warning("crew %s: %s", name, error)
            all_loaded = False
    if all_loaded:
        for problem in loader.ready(crew):  # a key that is missing, say
            logger.warning("crew %s: %s", name, problem)
            all_loaded = False
    return all_loaded
