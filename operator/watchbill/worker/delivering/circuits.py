"""A worker's knowledge of destinations that fail, so that it asks the store no more often than it needs to."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import redis.asyncio

from watchbill.api.delivery import Destination
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.plan import deliveries as plan
from watchbill.store import circuits
from watchbill.store.circuits import Circuit, Failure
from watchbill.store.queue import Claimed
from watchbill.worker.state import WorkerState

BELIEVED_SECONDS: Final = 1.0
"""Seconds for which it is believed that a destination works, before the store is asked whether others know better."""
_SPREAD: Final = 0.2
_KEPT: Final = 1000


class Circuits:
    """The destinations of one crew."""

    def __init__(
        self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str, state: WorkerState, trial_seconds: float
    ) -> None:
        """`trial_seconds`: how long a message may take that is sent as a trial."""
        self._client = client
        self._keys = keys
        self._uid = uid
        self._state = state
        self._clock = state.clock
        self._trial_ms = int(trial_seconds * 1000)
        self._known: dict[str, tuple[Circuit, float]] = {}
        """Destination → what is known of it, and since when."""
        self._deferring: set[str] = set()
        self.slow: Counter[str] = Counter()
        """Destination → messages that have been on their way to it for long."""

    async def wait(self, destination: Destination) -> float | None:
        """Seconds until a message may be sent; 0: now; None: never, because the destination is gone."""
        key = circuits.key(destination)
        circuit, since = self._known.get(key, (Circuit(), -BELIEVED_SECONDS))
        left = circuit.until_ms / 1000 - self._state.store_time().timestamp()
        if left > 0 and not circuit.is_gone:  # nobody sends before that, so nobody can know better
            return left * (1 + _SPREAD * random.random())
        if self._clock.monotonic() - since >= BELIEVED_SECONDS:
            self._note(key, circuit)  # the others of this moment needn't ask
            circuit = (await outages.persist(lambda: circuits.read(self._client, self._keys, [key])))[0]
            self._note(key, circuit)
        if circuit.is_gone:
            return None
        if circuit.failures < plan.CIRCUIT_FAILURES and not circuit.until_ms:
            return 0.0
        circuit, again_ms = await outages.persist(
            lambda: circuits.enter(self._client, self._keys, self._uid, destination, self._trial_ms)
        )
        self._note(key, circuit)
        if circuit.is_gone:
            return None
        return again_ms / 1000 * (1 + _SPREAD * random.random())

    async def defer(self, task: Claimed, seconds: float) -> None:
        """Delays what else waits for the destination of this task, which waits for so long. Does nothing while that is
        being done."""
        if task.agent in self._deferring:
            return
        self._deferring.add(task.agent)
        try:
            due_ms = int((self._state.store_time().timestamp() + seconds) * 1000)
            of = self._client, self._keys, self._uid, task.agent
            spread_ms = int(seconds * _SPREAD * 1000)
            await outages.persist(lambda: circuits.defer(*of, due_ms=due_ms, spread_ms=spread_ms))
        finally:
            self._deferring.discard(task.agent)

    async def succeeded(self, destination: Destination) -> None:
        key = circuits.key(destination)
        if self._known.get(key, (Circuit(), 0.0))[0] != Circuit():
            await outages.persist(
                lambda: circuits.record_success(self._client, self._keys, self._uid, destination),
            )
            self._note(key, Circuit())

    async def failed(self, destination: Destination, failure: Failure) -> None:
        circuit = await outages.persist(
            lambda: circuits.record_failure(self._client, self._keys, self._uid, destination, failure)
        )
        self._note(circuits.key(destination), circuit)

    def _note(self, key: str, circuit: Circuit) -> None:
        self._known.pop(key, None)
        self._known[key] = circuit, self._clock.monotonic()
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
