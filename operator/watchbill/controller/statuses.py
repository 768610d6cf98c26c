"""Writes statuses, and no more of them than the API server should bear.

A change that concerns one resource is written at once. Changes that many resources share (the store went away or came
back), and figures, are written in turns, twenty a second, shared changes first. The figures of a Crew are written at
most every ten seconds, those of a Heartbeat every minute.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from watchbill import cluster_names, metrics
from watchbill.api.conditions import Reason
from watchbill.clock import SYSTEM, Clock
from watchbill.controller.cache import Cache, Key
from watchbill.controller.events import Events
from watchbill.controller.memory import CrewMemory, Resource
from watchbill.controller.store_gate import StoreGate
from watchbill.errors import NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import crew as plan
from watchbill.plan import events as tell
from watchbill.plan import heartbeat

PER_SECOND: Final = 20
SHARED_SECONDS: Final = 10.0
"""Seconds that a cause that many resources share must last before it is written."""
FIGURES_SECONDS: Final = 10.0
"""Seconds between two writes of one Crew's figures, unless they become zero or cease to be zero."""
HEARTBEAT_SECONDS: Final = 60.0
"""Seconds between two writes of one Heartbeat's times and results."""

Kind = Literal["crews", "heartbeats"]

_KINDS: Final[dict[Kind, str]] = {"crews": "Crew", "heartbeats": "Heartbeat"}


class Turns:
    """Bounds how many statuses are written a second. A crew whose resource had to wait is woken at its turn."""

    def __init__(self, wake: Callable[[Key], None], clock: Clock = SYSTEM) -> None:
        self._wake = wake
        self._clock = clock
        self._next_at = -math.inf
        """Before this time no turn is given."""
        self._waiting: tuple[dict[Resource, Key], dict[Resource, Key]] = ({}, {})
        """Shared changes; figures. Each in the order in which they asked, with the crew to wake."""
        self._granted: set[Resource] = set()
        self._asked = asyncio.Event()

    def take(self, resource: Resource, crew: Key, *, first: bool) -> bool:
        """Returns whether the resource may be written now. If not, the crew is woken at its turn, and asks again.

        `first`: goes before the resources that are not.
        """
        if resource in self._granted:
            self._granted.discard(resource)
            return True
        now = self._clock.monotonic()
        if not any(self._waiting) and now >= self._next_at:
            self._next_at = now + 1 / PER_SECOND
            return True
        self.drop(resource)
        self._waiting[not first][resource] = crew
        self._asked.set()
        return False

    def drop(self, resource: Resource) -> None:
        """The resource has nothing to write any more."""
        self._granted.discard(resource)
        for waiting in self._waiting:
            waiting.pop(resource, None)

    async def run(self) -> None:
        """Gives the turns, until cancelled."""
        while True:
            if not any(self._waiting):
                self._asked.clear()
                await self._asked.wait()
            await self._clock.sleep(max(self._next_at - self._clock.monotonic(), 0))
            if queue := next((waiting for waiting in self._waiting if waiting), None):
                resource = next(iter(queue))
                self._granted.add(resource)
                self._next_at = self._clock.monotonic() + 1 / PER_SECOND
                self._wake(queue.pop(resource))


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
        self.turns = Turns(wake, clock)

    async def write(
        self, kind: Kind, seen: Mapping[str, Any], status: Mapping[str, Any] | None, crew: Key, memory: CrewMemory
    ) -> float | None:
        """Writes the status if it differs from the one that was seen, and may be written now.

        `crew`, `memory`: the crew of the resource, and what is remembered of it. Returns in how many seconds to call
        again; None: not before something changes, or the crew is woken.
        """
        metadata = seen["metadata"]
        resource: Resource = (kind, metadata["namespace"], metadata["name"])
        before = seen.get("status") or {}
        if status is None or plan.says(before, status):
            self.turns.drop(resource)
            return None
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
        now = self._clock.monotonic()
        recent = {other: at for other, at in memory.written.items() if now - at < max(self._seconds.values())}
        memory.written = {**recent, resource: now}
        if await self._apply(kind, metadata, status):
            self._events.tell(kind, metadata, tell.of_status(before, status))
        return None

    async def _apply(self, kind: Kind, metadata: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Returns whether it was written: the resource may have been deleted meanwhile."""
        manifest = {
            "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
            "kind": _KINDS[kind],
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "status": dict(status),
        }
        metrics.STATUS_WRITES.labels(kind).inc()
        try:
            written = await self._kubernetes.apply_status(kind, manifest)
        except NotFound:
            return False
        self._cache.take(kind, "MODIFIED", written)
        return True


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
