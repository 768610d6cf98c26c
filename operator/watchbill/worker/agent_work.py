"""Tasks of the crew's agents, as the work of a shift."""

from __future__ import annotations

import asyncio

from watchbill import background
from watchbill.agents import aclose_clients
from watchbill.agents.loading import AgentLoader
from watchbill.connection import Store
from watchbill.names import CrewKeys
from watchbill.store.queue import Queue
from watchbill.worker import batch_sender, lease_keeper, parked, preload, redefined, watching
from watchbill.worker.counts import Counts
from watchbill.worker.execution.executor import Executor
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState


class AgentWork:
    """The work of agents in one shift."""

    poll_seconds: float = lease_keeper.POLL_SECONDS

    def __init__(self, store: Store, keys: CrewKeys, loader: AgentLoader) -> None:
        self._store = store
        self._keys = keys
        self._loader = loader
        self.counts = Counts(keys.crew)

    def executor(self, state: WorkerState, uid: str, slots: Slots, lease: SharedLease) -> Executor:
        return Executor(
            self._store,
            self._keys,
            uid,
            self._loader,
            lease,
            on_abandoned=slots.set_abandoned,
            store_time=state.store_time,
            clock=state.clock,
        )

    def start_beside(self, state: WorkerState, queue: Queue, tasks_parked: asyncio.Event) -> list[asyncio.Task[None]]:
        return [
            background.start("parked", lambda: parked.bring_back(state, queue, self._loader, tasks_parked)),
            background.start("batches", lambda: batch_sender.send(state, self._store.client, self._keys, queue.uid)),
            background.start("roles", lambda: redefined.take_up(state, queue, tasks_parked)),
            background.start("agents", lambda: preload.preload(state, queue, self._loader)),
            background.start("watches", lambda: watching.follow(state, queue)),
        ]

    async def close(self) -> None:
        await aclose_clients()
