"""A worker's knowledge of destinations that fail, so that it asks the store no more often than it needs to."""

from __future__ import annotations

import random
from typing import Final

import redis.asyncio

from watchbill.api.delivery import Destination
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.plan import deliveries as plan
from watchbill.store import circuits
from watchbill.store.circuits import Circuit, Failure
from watchbill.worker.state import WorkerState

BELIEVED_SECONDS: Final = 1.0
"""Seconds for which it is believed that a destination works, before the store is asked whether others know better."""
TRIAL_POLL_SECONDS: Final = 5.0
"""Seconds for which a message is put off that was claimed while another makes the trial."""
_SPREAD: Final = 0.2
_KEPT: Final = 1000
_DUES: Final = 16


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
        self._deferred: dict[str, list[int]] = {}
        """Agent of the delivery queue → the times, in ms, until which its messages are delayed."""

    async def wait(self, destination: Destination) -> float | None:
        """Seconds until a message may be sent; 0: now; None: never, because the destination is gone."""
        key = circuits.key(destination)
        circuit, since = self._known.get(key, (Circuit(), -BELIEVED_SECONDS))
        left = circuit.until_ms / 1000 - self._state.store_time().timestamp()
        if left > 0 and not circuit.is_gone:  # nobody sends before that, so nobody can know better
            return self._spread(left)
        if self._clock.monotonic() - since >= BELIEVED_SECONDS:
            self._note(key, circuit)  # the others of this moment needn't ask
            circuit = await self._read(destination)
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
        seconds = again_ms / 1000
        if circuit.until_ms / 1000 <= self._state.store_time().timestamp():  # a trial is being made
            seconds = min(seconds, TRIAL_POLL_SECONDS)
        return self._spread(seconds)

    async def defer(self, destination: Destination, agent: str) -> None:
        """Delays what else waits for a destination to which nothing may be sent now. `agent`: its name on the delivery
        queue. Does nothing while that is being done."""
        if agent in self._deferring:
            return
        self._deferring.add(agent)
        try:
            before = Circuit()
            while (circuit := self._knowledge(destination)).until_ms != before.until_ms:  # it may change meanwhile
                if circuit.until_ms:
                    await self._defer(destination, circuit, agent)
                    await self._read(destination)  # it may have ended before that: then nobody brings them forward
                else:
                    await self._bring_forward(before, agent)
                before = circuit
        finally:
            self._deferring.discard(agent)

    async def _defer(self, destination: Destination, circuit: Circuit, agent: str) -> None:
        of, named = (self._client, self._keys, self._uid, agent), circuits.key(destination)
        now_ms = int(self._state.store_time().timestamp() * 1000)
        dues, due_ms, first_ms = self._deferred.get(agent, []), self._after_trial(circuit), 0
        before = max(dues, default=0)
        if circuit.until_ms <= now_ms:  # a trial is being made
            due_ms = max(before, due_ms)
            due_ms = due_ms if due_ms > now_ms else now_ms + self._trial_ms
        elif before != due_ms:  # what is delayed is looked through once for each time in which nothing is sent
            first_ms = circuit.until_ms
        before_ms = due_ms if first_ms else 0
        await outages.persist(lambda: circuits.defer(*of, due_ms=due_ms, before_ms=before_ms, of=named))
        if first_ms:
            await outages.persist(lambda: circuits.bring_forward(*of, due_ms=due_ms, to_ms=first_ms, most=1))
        self._deferred[agent] = [due_ms] if first_ms else [*(due for due in dues if due != due_ms), due_ms][-_DUES:]
        while len(self._deferred) > _KEPT:
            del self._deferred[next(iter(self._deferred))]

    async def _bring_forward(self, circuit: Circuit, agent: str) -> None:
        """Brings forward what was delayed until after a trial of this circuit: by others, and by this worker."""
        of = self._client, self._keys, self._uid, agent
        due_ms = self._after_trial(circuit)
        for each in {due_ms, *self._deferred.pop(agent, ())}:
            await outages.persist(lambda at=each: circuits.bring_forward(*of, due_ms=at))  # type: ignore[misc]

    async def _read(self, destination: Destination) -> Circuit:
        key = circuits.key(destination)
        circuit = (await outages.persist(lambda: circuits.read(self._client, self._keys, [key])))[0]
        self._note(key, circuit)
        return circuit

    def _knowledge(self, destination: Destination) -> Circuit:
        return self._known.get(circuits.key(destination), (Circuit(), 0.0))[0]

    def _after_trial(self, circuit: Circuit) -> int:
        """The time, in ms, at which the messages are due that don't make the trial: it has failed by then, and they are
        delayed again; or it has succeeded, and they were brought forward."""
        return circuit.until_ms + self._trial_ms

    async def succeeded(self, destination: Destination, agent: str) -> None:
        """Notes that the destination took a message. `agent`: its name on the delivery queue."""
        known = self._knowledge(destination)
        if known == Circuit():
            return
        circuit = await outages.persist(
            lambda: circuits.record_success(self._client, self._keys, self._uid, destination)
        )
        self._note(circuits.key(destination), circuit)
        if known.until_ms and circuit == Circuit():
            await self._bring_forward(known, agent)

    async def failed(self, destination: Destination, failure: Failure) -> float | None:
        """Notes a failed attempt of a message for `failure.agent`. Returns for how many seconds nothing is sent to the
        destination now; None: the crew has another destination of this name by now, which needn't wait."""
        agent = failure.agent
        circuit, is_redefined = await outages.persist(
            lambda: circuits.record_failure(self._client, self._keys, self._uid, destination, failure)
        )
        self._note(circuits.key(destination), circuit)
        if is_redefined:
            return None
        if not failure.counts and not failure.is_gone:  # it answered: if this was the trial, that has succeeded
            await self.succeeded(destination, agent)
            circuit = self._knowledge(destination)
        left = circuit.until_ms / 1000 - self._state.store_time().timestamp()
        if left <= 0 or circuit.is_gone:
            return 0.0
        await self.defer(destination, agent)
        return self._spread(left)

    def _spread(self, seconds: float) -> float:
        """Somewhat more, so that not all come back at the same moment; no later than what was delayed together."""
        return seconds + random.random() * min(_SPREAD * seconds, self._trial_ms / 1000)

    def _note(self, key: str, circuit: Circuit) -> None:
        self._known.pop(key, None)
        self._known[key] = circuit, self._clock.monotonic()
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
