"""Writes statuses, and no more of them than the API server should bear.

A change that concerns one resource is written at once. Changes that many resources share (the store went away or came
back), and figures, are written in turns, eighteen a second, shared changes first: so twenty a second are enough for
them and what concerns one resource meanwhile. The figures of a Crew are written at most every ten seconds, those of a
Heartbeat every minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from watchbill import cluster_names, metrics
from watchbill.api.conditions import Reason
from watchbill.clock import SYSTEM, Clock
from watchbill.controller import faults
from watchbill.controller.cache import Cache, Key, annotations_of
from watchbill.controller.events import Events
from watchbill.controller.memory import CrewMemory, Resource
from watchbill.controller.store_gate import StoreGate
from watchbill.errors import KubernetesRefuses, NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import crew as plan
from watchbill.plan import events as tell
from watchbill.plan import heartbeat

logger = logging.getLogger("watchbill.operator")

PER_SECOND: Final = 18
"""Statuses that are written in turns in any second, at most."""
SHARED_SECONDS: Final = 10.0
"""Seconds that a cause that many resources share must last before it is written."""
GRANTED_SECONDS: Final = 600.0
"""Seconds for which a turn waits for its resource, which may have been deleted."""
FIGURES_SECONDS: Final = 10.0
"""Seconds between two writes of one Crew's figures, unless they become zero or cease to be zero."""
HEARTBEAT_SECONDS: Final = 60.0
"""Seconds between two writes of one Heartbeat's times and results."""

REFUSED_SECONDS: Final = 60.0
"""Seconds after which a status is tried again that the API server refused; sooner, once its resource has changed."""

Kind = Literal["crews", "heartbeats"]

_KINDS: Final[dict[Kind, str]] = {"crews": "Crew", "heartbeats": "Heartbeat"}


class Turns:
    """Bounds how many statuses are written a second. A crew whose resource had to wait is woken at its turn.

    Turns are given at equal distances. A crew that is woken writes a little later, and on a busy machine many may do so
    at once: so the writes of the last second are counted when one is to begin, too.
    """

    def __init__(self, wake: Callable[[Key], None], clock: Clock = SYSTEM) -> None:
        self._wake = wake
        self._clock = clock
        self._next_at = -math.inf
        """Before this time no turn is given."""
        self._written: deque[float] = deque(maxlen=PER_SECOND)
        """The times of the last writes."""
        self._waiting: tuple[dict[Resource, Key], ...] = ({}, {}, {})
        """Resources that had their turn when too much was written; shared changes; figures. Each in the order in which
        they asked, with the crew to wake."""
        self._granted: dict[Resource, float] = {}
        """Resources that were given a turn and have not taken it yet, and since when; the oldest first."""
        self._asked = asyncio.Event()

    def take(self, resource: Resource, crew: Key, *, first: bool) -> bool:
        """Returns whether the resource may be written now. If not, the crew is woken at its turn, and asks again.

        `first`: goes before the resources that are not.
        """
        now, had_turn = self._clock.monotonic(), resource in self._granted
        is_turn = had_turn or (not any(self._waiting) and now >= self._next_at)
        if is_turn and now >= self._room_at:
            self._granted.pop(resource, None)
            self._written.append(now)
            if not had_turn:
                self._next_at = now + 1 / PER_SECOND
            return True
        self.drop(resource)
        self._waiting[0 if had_turn else 1 if first else 2][resource] = crew
        self._asked.set()
        return False

    def drop(self, resource: Resource) -> None:
        """The resource has nothing to write any more."""
        self._granted.pop(resource, None)
        for waiting in self._waiting:
            waiting.pop(resource, None)

    async def run(self) -> None:
        """Gives the turns, until cancelled."""
        while True:
            if not any(self._waiting):
                self._asked.clear()
                await self._asked.wait()
            await self._clock.sleep(max(self._next_at, self._room_at) - self._clock.monotonic())
            if queue := next((waiting for waiting in self._waiting if waiting), None):
                resource, now = next(iter(queue)), self._clock.monotonic()
                self._granted[resource] = now
                while now - self._granted[oldest := next(iter(self._granted))] >= GRANTED_SECONDS:
                    del self._granted[oldest]
                self._next_at = now + 1 / PER_SECOND
                self._wake(queue.pop(resource))

    @property
    def _room_at(self) -> float:
        """From this time on the last second has room for a write."""
        return self._written[0] + 1 if len(self._written) == PER_SECOND else -math.inf


class Statuses:
    """Writes the statuses of crews and heartbeats. `wake(crew)` has the crew reconciled."""

    def __init__(
        self,
        kubernetes: KubernetesApi,
        cache: Cache,
        gate: StoreGate,
        wake: Callable[[Key], None],
        events: Events,
        clock: Clock = SYSTEM,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._events = events
        self._seconds: Mapping[Kind, float] = {"crews": FIGURES_SECONDS, "heartbeats": heartbeat_seconds}
        self._kubernetes = kubernetes
        self._cache = cache
        self._gate = gate
        self._clock = clock
        self._wake = wake
        self.turns = Turns(wake, clock)

    async def write(
        self, kind: Kind, seen: Mapping[str, Any], status: Mapping[str, Any] | None, crew: Key, memory: CrewMemory
    ) -> float | None:
        """Writes the status if it differs from the one that was seen, and may be written now.

        What the API server refuses is told by the log, an Event and a metric, and raises nothing: the rest of the crew
        goes on.

        `crew`, `memory`: the crew of the resource, and what is remembered of it. Returns in how many seconds to call
        again; None: not before something changes, or the crew is woken.
        """
        metadata = seen["metadata"]
        resource: Resource = (kind, metadata["namespace"], metadata["name"])
        before = seen.get("status") or {}
        if status is None or plan.says(before, status):
            self.turns.drop(resource)
            memory.refused.pop(resource, None)
            return None
        generation, _, until = memory.refused.get(resource, (0, "", 0.0))
        if generation == metadata.get("generation") and (wait := until - self._clock.monotonic()) > 0:
            self.turns.drop(resource)
            return wait
        match urgency(before, status):
            case "shared":
                down_for = self._gate.down_for
                if down_for is not None and down_for < SHARED_SECONDS:
                    self.turns.drop(resource)
                    return SHARED_SECONDS - down_for
                if not self.turns.take(resource, crew, first=True):
                    return None
            case "figures":
                wait = memory.written.get(resource, -math.inf) + self._seconds[kind] - self._clock.monotonic()
                if wait > 0:
                    return wait
                if not self.turns.take(resource, crew, first=False):
                    return None
        try:
            is_written = await self._apply(kind, seen, status, crew)
        except KubernetesRefuses as error:
            faults.count(error)
            self._refused(resource, metadata, str(error), memory)
            return REFUSED_SECONDS
        now = self._clock.monotonic()
        recent = {other: at for other, at in memory.written.items() if now - at < max(self._seconds.values())}
        memory.written = {**recent, resource: now}
        memory.refused.pop(resource, None)
        if is_written:
            self._events.tell(kind, metadata, tell.of_status(before, status))
        return None

    def _refused(self, resource: Resource, metadata: Mapping[str, Any], message: str, memory: CrewMemory) -> None:
        kind, namespace, name = resource
        if memory.refused.get(resource, (0, ""))[1] != message:
            logger.warning(
                "%s/%s: the API server refuses the status of this %s: %s", namespace, name, _KINDS[kind], message
            )
            self._events.tell(kind, metadata, [tell.status_refused(message)])
        memory.refused[resource] = (
            int(metadata.get("generation") or 0),
            message,
            self._clock.monotonic() + REFUSED_SECONDS,
        )

    async def _apply(self, kind: Kind, seen: Mapping[str, Any], status: Mapping[str, Any], crew: Key) -> bool:
        """Returns whether it was written: the resource may have been deleted meanwhile. Raises KubernetesRefuses."""
        metadata = seen["metadata"]
        manifest = {
            "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
            "kind": _KINDS[kind],
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "status": dict(status),
        }
        metrics.STATUS_WRITES.labels(kind).inc()
        try:
            written = await self._kubernetes.apply_status(kind, manifest)
        except NotFound as error:
            found = await self._kubernetes.get(kind, metadata["namespace"], metadata["name"])
            if found is None or found["metadata"]["uid"] != metadata["uid"]:
                return False
            raise KubernetesRefuses(f"it serves none ({error})", 404) from error
        self._cache.take(kind, "MODIFIED", written)
        if _wanted(written) != _wanted(seen):  # somebody has changed it since, and the watch tells nothing new of that
            self._wake(crew)
        return True


def _wanted(resource: Mapping[str, Any]) -> tuple[object, ...]:
    """Returns all of a resource that a reconciliation depends on, but its status."""
    metadata = resource["metadata"]
    labels = metadata.get("labels") or {}
    return metadata.get("generation"), metadata.get("deletionTimestamp"), labels, annotations_of(metadata)


def urgency(before: Mapping[str, Any], after: Mapping[str, Any]) -> Literal["now", "shared", "figures"]:
    """Returns how soon a status must be written that differs from the one that is there."""
    then, now = _substance(before), _substance(after)
    if then == now:
        return "figures"
    reasons = {plan.summary(before).get("reason"), plan.summary(after).get("reason")}
    store = Reason.STORE_UNAVAILABLE in reasons or reasons == {Reason.AVAILABLE, Reason.STORE_EVICTS}
    same_spec = before.get("observedGeneration") == after.get("observedGeneration")
    return "shared" if store and same_spec else "now"


def _substance(status: Mapping[str, Any]) -> Any:
    """The status without what may wait: figures (other than whether they are zero; a pause
    between two attempts is nothing that concerns anybody at once), times, messages; and the version of the template,
    which a newer operator has to write for each crew."""
    figures = {field: bool(status.get(field)) for field in plan.FIGURES if field != "delayed"}
    conditions = [(c["type"], c["status"], c["reason"]) for c in status.get("conditions", [])]
    left_out = {"conditions", "scaling", "templateVersion", *plan.FIGURES, *heartbeat.FIGURES}
    return figures, conditions, {k: v for k, v in status.items() if k not in left_out}
