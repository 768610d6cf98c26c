"""Tasks that the worker that claimed them can't run, for want of their agent or of a version that can read their crew:
they are set aside, for one that can."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import redis

from watchbill.agents.loading import AgentLoader
from watchbill.connection.outages import Persist
from watchbill.errors import AgentNotLoadable, NewerRecord, NotFound, WatchbillError
from watchbill.names import split_step_id
from watchbill.store import definitions, runs
from watchbill.store.queue import Queue

UNPARK_SECONDS: Final = 30.0
"""How often a worker looks for parked tasks that it can run."""
UNPARK_AGAIN_SECONDS: Final = 1.0
"""After something was brought back: a worker without the agent, an older one, may have taken and parked it again."""
UNREADABLE_AGAIN_SECONDS: Final = 2.0
"""While a definition can't be read: it needs no other worker to become readable, as an agent does."""


async def bring_back(queue: Queue, loader: AgentLoader, persist: Persist, parked: asyncio.Event) -> None:
    """Puts what was parked back onto the stream, where `loader` has its agent. Until it is cancelled. Looks soon after
    `parked` is set."""
    while True:
        parked.clear()
        look = _Look(queue, loader, persist)
        with suppress(WatchbillError, redis.exceptions.RedisError):  # NotFound, say: the crew may come back
            await look.bring_back()
        pause = UNPARK_AGAIN_SECONDS if look.brought else UNPARK_SECONDS
        if look.met_unreadable:
            pause = min(pause, UNREADABLE_AGAIN_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await parked.wait()
                await asyncio.sleep(UNPARK_AGAIN_SECONDS)  # more is being parked, most likely


class _Look:
    """One look at all that is parked."""

    def __init__(self, queue: Queue, loader: AgentLoader, persist: Persist) -> None:
        self._queue = queue
        self._loader = loader
        self._persist = persist
        self._can_run: dict[tuple[str, str], bool] = {}
        self.brought = 0
        self.met_unreadable = False

    async def bring_back(self) -> None:
        for agent, members in (await self._persist(self._queue.parked_agents)).items():
            digests = await self._persist(lambda m=members: self._digests(m))  # type: ignore[misc]
            mine = [m for m, digest in zip(members, digests, strict=True) if await self._runs(agent, digest)]
            if mine:
                self.brought += await self._persist(lambda m=mine: self._queue.unpark(m))  # type: ignore[misc]

    async def _digests(self, members: list[str]) -> list[str]:
        """Under which definition each will run: a step under its run's, a task under the current one."""
        current = (await definitions.current(self._queue.client, self._queue.keys)).digest
        steps = [split_step_id(member.split("\x1f")[2]) for member in members]
        pinned = await runs.digests(self._queue.client, self._queue.keys, {step[0] for step in steps if step})
        return [pinned.get(step[0], current) if step else current for step in steps]

    async def _runs(self, agent: str, digest: str) -> bool:
        """Whether this worker can run that agent under that definition, as far as can be known."""
        if (agent, digest) not in self._can_run:
            self._can_run[agent, digest] = await self._looked(agent, digest)
        return self._can_run[agent, digest]

    async def _looked(self, agent: str, digest: str) -> bool:
        try:
            crew = await self._persist(lambda: definitions.load(self._queue.client, self._queue.keys, digest))
            definition = crew.agent(agent)
            if definition is None:
                return True  # it will fail, and say so
            self._loader.load(crew, definition)
            self._loader.tools(crew, definition)
        except NewerRecord:
            self.met_unreadable = True
            return False
        except AgentNotLoadable:
            return False
        except NotFound:
            return True  # so will this
        return True
