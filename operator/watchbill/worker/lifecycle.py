"""The beginning of a worker's incarnations, their replacement when the store has ended one, and the worker's end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from watchbill import connection
from watchbill.errors import CrewGone, Fenced, WorkerForgotten
from watchbill.loggers import Logger
from watchbill.names import ANY_AGENT
from watchbill.records import CrewDefinition
from watchbill.store import definitions
from watchbill.store.incarnations import parts
from watchbill.store.queue import Queue
from watchbill.worker.claims import Claims
from watchbill.worker.counts import Counts
from watchbill.worker.jobs import Jobs
from watchbill.worker.lease_keeper import LeaseKeeper
from watchbill.worker.reports import Reports
from watchbill.worker.state import WorkerState
from watchbill.worker.store_loss import StoreLoss

logger = Logger("watchbill.worker")


class Lifecycle:
    """Begins, replaces and ends the incarnations of one worker."""

    def __init__(
        self,
        state: WorkerState,
        queue: Queue,
        keeper: LeaseKeeper,
        claims: Claims,
        jobs: Jobs,
        reports: Reports,
        store_loss: StoreLoss,
        counts: Counts,
    ) -> None:
        self._state = state
        self._queue = queue
        self._keeper = keeper
        self._claims = claims
        self._jobs = jobs
        self._reports = reports
        self._store_loss = store_loss
        self._counts = counts
        self._agents: list[str] = []

    async def begin(self, crew: CrewDefinition) -> None:
        """Makes the store know the worker, with the agents of its crew. Tasks can be claimed from then on."""
        self._agents = [agent.agent_id for agent in crew.agents if agent.agent_id != ANY_AGENT]
        await self._give_others_time()
        await self._register()

    async def _give_others_time(self) -> None:
        """Lets the workers of a store that was just restarted renew before they are taken for dead."""

        async def ask() -> Mapping[str, Any]:
            return await (await connection.home(self._queue.client, self._queue.keys.meta)).info("server")

        uptime = (await self._state.persist(ask)).get("uptime_in_seconds", 0)
        third = self._keeper.lease_ms / 3000
        if uptime < third:
            # negative where its clock was set back since it started
            self._keeper.wait_before_take_over(third - max(uptime, 0))

    async def _register(self) -> None:
        state, queue, new = self._state, self._queue, self._state.incarnation
        new.number = 1
        lease_ms = self._keeper.lease_ms
        first, *others = parts(self._agents)
        entered = await state.persist(lambda: queue.enter(new.name, first, lease_ms=lease_ms))
        for agents in others:
            further = partial(queue.enter, new.name, agents, lease_ms=lease_ms, since_ms=entered.now_ms)
            await state.persist(further)
        state.set_store_time(entered.now_ms)
        state.since_ms = state.since_ms or entered.now_ms
        # Only now: had the store lost the crew before, it would have lost this incarnation, which then claims nothing.
        new.born = await state.persist(lambda: definitions.born(queue.client, queue.keys))
        self._keeper.guard(new.name)
        state.registered = True
        state.has_work = True

    async def replace(self) -> None:
        """Drops everything that is no longer ours, and goes on as a new incarnation. Raises CrewGone when the crew was
        deleted or doesn't come back."""
        # `incarnation_error` stays until there is a new incarnation, which no news of the old one's end may end.
        state = self._state
        error, old = state.incarnation_error, state.incarnation
        await self._claims.drop_heard(old)
        await self._reports.settle(cancel=True)
        if isinstance(error, CrewGone | WorkerForgotten):
            logger.warning("%s. Unless it was deleted, the store has lost it, and it may come back", error)
            if not await self._store_loss.crew_is_back():
                self._jobs.drop(old)
                raise error
            state.reincarnate()
            unsaved = len(old.held) + len(old.beginning) + len(old.unwanted) + len(old.unloadable)
            logger.warning("the store has the crew back, without its tasks: %d that were not begun are lost", unsaved)
            state.unrecovered.append(old)
        else:
            new, tasks = state.reincarnate(), len(old.entries)
            self._jobs.drop(old)
            self._counts.fenced.inc()
            logger.warning(
                "this worker was silent for longer than its lease, so its %d tasks were given to others. "
                "Nothing of them was written here; going on as %s",
                tasks,
                new.name,
            )
        try:
            await self._store_loss.write()
            await self._register()
        except (Fenced, CrewGone) as again:  # ended once more, in this moment: that is no reason to end what runs
            state.end_incarnation(state.incarnation.name, again)

    async def end(self) -> None:
        """Reports what has ended, hands back what has not, and takes leave of the store."""
        state, queue, last = self._state, self._queue, self._state.incarnation
        with suppress(Fenced, CrewGone):
            await self._claims.claim_no_more(last)
        left = [job.task for job in last.jobs.values()]
        self._jobs.drop(last)
        await self._reports.settle()
        with suppress(Fenced, CrewGone):
            await self._reports.send_all(last)
        with suppress(Fenced, CrewGone):
            if left:
                logger.warning("handing back %d tasks that did not end in time", len(left))
                await state.persist(lambda: queue.hand_back(last.name, left))
            await state.persist(lambda: queue.leave(last.name))
        state.ended = True
