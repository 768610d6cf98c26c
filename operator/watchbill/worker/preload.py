"""Loads all agents of the crew while the worker is idle, and records in the store once all could be loaded.

So it is known before the first task that a class isn't there, can't be imported, or lacks the key of its model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final

from watchbill.agents.loading import AgentLoader
from watchbill.agents.tools import Tool
from watchbill.errors import AgentNotLoadable, NewerRecord, NotFound, WatchbillError
from watchbill.loggers import Logger
from watchbill.plan import flow
from watchbill.records import CrewDefinition
from watchbill.store import definitions
from watchbill.store.queue import Queue
from watchbill.store.role_feeds import RoleFeeds
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

FIRST_SECONDS: Final = 1.0
"""Seconds that a worker waits after its start: tasks come first, and load what they need."""
POLL_SECONDS: Final = 10.0
"""Seconds between two checks of a worker whether the crew has changed."""


async def preload(state: WorkerState, queue: Queue, loader: AgentLoader) -> None:
    """Runs until it is cancelled. An import holds up the event loop, so none begins while the worker has work."""
    tried, able = "", ""
    pause = FIRST_SECONDS
    while True:
        await state.clock.sleep(pause)
        pause = POLL_SECONDS
        there = await state.persist(lambda: definitions.identity(queue.client, queue.keys))
        digest = there.definition
        if there.uid != queue.uid or digest in ("", there.loaded):
            continue
        record = partial(definitions.record_loaded, queue.client, queue.keys, queue.uid, digest)
        if digest == able:  # the store had lost the crew, and has it back
            await state.persist(record)
        if digest == tried:
            continue
        if not state.incarnation.is_idle:
            pause = FIRST_SECONDS
            continue
        tried = digest
        try:
            crew = await state.persist(lambda d=digest: definitions.load(queue.client, queue.keys, d))  # type: ignore[misc]
        except (NotFound, NewerRecord):  # replaced meanwhile, or told elsewhere
            continue
        if await _load_all(crew, loader, queue.keys.crew, queue.role_feeds):
            able = digest
            await state.persist(record)


async def _load_all(crew: CrewDefinition, loader: AgentLoader, name: str, feeds: RoleFeeds) -> bool:
    all_loaded = True
    for agent in flow.members(crew):
        await asyncio.sleep(0)
        try:
            loader.load(crew, agent)
            tools = loader.tools(crew, agent, name)
        except AgentNotLoadable as error:
            logger.warning("crew %s: %s", name, error)
            all_loaded = False
            feeds.can_run(agent.agent_id, able=False)
        else:
            await _begin_servers(tools.values(), name)
    if all_loaded:
        for problem in loader.ready(crew):  # a key that is missing, say
            logger.warning("crew %s: %s", name, problem)
            all_loaded = False
    return all_loaded


async def _begin_servers(tools: Iterable[Tool], crew: str) -> None:
    """Begins the tool servers of an agent, so that it is known before its first task when one is out or lacks a tool.
    That is only logged: a server may come later."""
    for tool in tools:
        if tool.listed is not None:
            try:
                await tool.listed()
            except WatchbillError as error:
                logger.warning("crew %s: %s", crew, error)
