"""Brings parked tasks back: a worker that claimed them lacked their agent or could not read their definition."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import redis

from watchbill.agents.loading import AgentLoader
from watchbill.clock import wait_for_event
from watchbill.connection.outages import Persist
from watchbill.errors import AgentNotLoadable, NewerRecord, NotFound, WatchbillError
from watchbill.names import ROLE, split_step_id
from watchbill.plan import flow, submission
from watchbill.store import definitions, help_requests, packed, run_steps
from watchbill.store.queue import Queue
from watchbill.worker.state import WorkerState

UNPARK_SECONDS: Final = 30.0
"""Seconds between two searches of a worker for parked tasks that it can run."""
UNPARK_AGAIN_SECONDS: Final = 1.0
"""Seconds until it searches again after it brought tasks back: an older worker may have parked them again."""
UNREADABLE_AGAIN_SECONDS: Final = 2.0
"""Seconds until it searches again while a definition can't be read: it may become readable without another worker."""


async def bring_back(state: WorkerState, queue: Queue, loader: AgentLoader, parked: asyncio.Event) -> None:
    """Puts parked tasks back onto their streams where `loader` has their agent, until it is cancelled. Does so soon
    after `parked` is set."""
    while True:
        parked.clear()
        search = _Search(queue, loader, state.persist)
        with suppress(WatchbillError, redis.exceptions.RedisError):  # NotFound, say: the crew may come back
            await search.bring_back()
            if search.is_left:
                await help_requests.ask(queue.client, queue.keys, queue.uid)
        pause = UNPARK_AGAIN_SECONDS if search.brought else UNPARK_SECONDS
        if search.met_unreadable:
            pause = min(pause, UNREADABLE_AGAIN_SECONDS)
        if await wait_for_event(parked, pause, state.clock):
            await state.clock.sleep(UNPARK_AGAIN_SECONDS)  # more is being parked, most likely


class _Search:
    """One search through all parked tasks."""

    def __init__(self, queue: Queue, loader: AgentLoader, persist: Persist) -> None:
        self._queue = queue
        self._loader = loader
        self._persist = persist
        self._can_run: dict[tuple[str, str], bool] = {}
        self._plans: dict[str, flow.Plan] = {}
        self.brought = 0
        self.is_left = False
        """Some tasks stay parked, as far as this worker knows."""
        self.met_unreadable = False

    async def bring_back(self) -> None:
        feeds = self._queue.role_feeds
        if feeds.unable:
            current = await self._persist(lambda: definitions.current(self._queue.client, self._queue.keys))
        for agent in tuple(feeds.unable):
            if await self._runs(agent, current.digest):
                feeds.can_run(agent, able=True)
        for agent, members in (await self._persist(self._queue.parked_agents)).items():
            digests = await self._persist(lambda m=members: self._digests(m))  # type: ignore[misc]
            mine = [m for m, digest in zip(members, digests, strict=True) if await self._runs(agent, digest)]
            self.is_left |= len(mine) < len(members)
            if mine:
                self.brought += await self._persist(lambda m=mine: self._queue.unpark(m))  # type: ignore[misc]

    async def _digests(self, members: list[packed.Member]) -> list[str]:
        """Returns the definition under which each will run: a step under its run's, a task under the current one."""
        current = (await definitions.current(self._queue.client, self._queue.keys)).digest
        steps = [split_step_id(member.task_id) for member in members]
        pinned = await run_steps.digests(self._queue.client, self._queue.keys, {step[0] for step in steps if step})
        return [pinned.get(step[0], current) if step else current for step in steps]

    async def _runs(self, agent: str, digest: str) -> bool:
        """Returns whether this worker can run that agent under that definition, as far as can be known."""
        if (agent, digest) not in self._can_run:
            self._can_run[agent, digest] = await self._can_load(agent, digest)
        return self._can_run[agent, digest]

    async def _can_load(self, agent: str, digest: str) -> bool:
        try:
            if digest not in self._plans:
                crew = await self._persist(lambda: definitions.load(self._queue.client, self._queue.keys, digest))
                self._plans[digest] = flow.Plan(crew)
            plan = self._plans[digest]
            definition = plan.member(agent)
            if definition is None:
                # It will fail, and say so; but for what waits until an agent has its role.
                return not agent.startswith(ROLE) or bool(submission.agents_of(plan.crew, agent.removeprefix(ROLE)))
            self._loader.load(plan.crew, definition)
            self._loader.tools(plan.crew, definition)
        except NewerRecord:
            self.met_unreadable = True
            return False
        except AgentNotLoadable:
            return False
        except NotFound:
            return True  # so will this
        return True
