"""Writes statuses, and no more of them than the API server should bear.

At once what concerns one resource. In turns, twenty a second, what many share (the store went or came back; figures
that merely change), transitions first; of figures each resource at most every ten seconds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from watchbill import metrics, names
from watchbill.api.conditions import Reason
from watchbill.controller.cache import Cache, Key
from watchbill.errors import NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import crew as plan
from watchbill.plan import heartbeat

PER_SECOND: Final = 20
SHARED_SECONDS: Final = 10.0
"""How long a cause that many share must last before it is written."""
FIGURES_SECONDS: Final = 10.0
"""How often figures of one resource are written, other than when they begin or cease to be zero."""

Kind = Literal["crews", "heartbeats"]
Who = tuple[Kind, str, str]

_KINDS: Final[dict[Kind, str]] = {"crews": "Crew", "heartbeats": "Heartbeat"}


class Turns:
    """Whose turn it is. Who doesn't get it is woken when it is theirs."""

    def __init__(self, wake: Callable[[Key], None], per_second: float = PER_SECOND) -> None:
        self._wake = wake
        self._pause = 1 / per_second
        self._next = 0.0
        self._waiting: tuple[dict[Who, Key], dict[Who, Key]] = ({}, {})
        """Transitions; others. Each in the order in which they asked."""
        self._granted: set[Who] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, who: Who, crew: Key, *, first: bool) -> bool:
        """Whether it may write now. If not, it is woken, and must ask again. `first`: before those that are not."""
        now = time.monotonic()
        if who in self._granted:
            self._granted.discard(who)
            return True
        if self._timer is None and now >= self._next:
            self._next = now + self._pause
            return True
        self.drop(who)
        self._waiting[not first][who] = crew
        self._arm()
        return False

    def drop(self, who: Who) -> None:
        """It has nothing to write any more."""
        self._granted.discard(who)
        for waiting in self._waiting:
            waiting.pop(who, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(self._next - time.monotonic(), 0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        queue = next((q for q in self._waiting if q), None)
        if queue is None:
            return
        who, crew = next(iter(queue.items()))
        del queue[who]
        self._granted.add(who)
        self._wake(crew)
        self._next = time.monotonic() + self._pause
        self._arm()


class Statuses:
    """One writer of statuses. `wake(crew)` has the crew reconciled."""

    def __init__(self, kubernetes: KubernetesApi, cache: Cache, wake: Callable[[Key], None]) -> None:
        self._kubernetes = kubernetes
        self._cache = cache
        self.turns = Turns(wake)
        self._written: dict[Who, float] = {}
        self._prune_at = 1000

    async def write(
        self, kind: Kind, seen: Mapping[str, Any], status: Mapping[str, Any] | None, crew: Key, down_for: float | None
    ) -> float | None:
        """Writes the status if it differs and may be written now. Returns in how many seconds to come again.

        `down_for`: seconds that the store has been away; None: it is there.
        """
        metadata = seen["metadata"]
        who: Who = (kind, metadata["namespace"], metadata["name"])
        before = seen.get("status") or {}
        if status is None or plan.says(before, status):
            self.turns.drop(who)
            return None
        match urgency(before, status):
            case "shared":
                if down_for is not None and down_for < SHARED_SECONDS:
                    self.turns.drop(who)
                    return SHARED_SECONDS - down_for
                if not self.turns.take(who, crew, first=True):
                    return None
            case "figures":
                wait = self._written.get(who, -math.inf) + FIGURES_SECONDS - time.monotonic()
                if wait > 0:
                    return wait
                if not self.turns.take(who, crew, first=False):
                    return None
        self._remember(who)
        await self._apply(kind, metadata, status)
        return None

    def forget(self, kind: Kind, key: Key) -> None:
        who: Who = (kind, *key)
        self._written.pop(who, None)
        self.turns.drop(who)

    def _remember(self, who: Who) -> None:
        now = time.monotonic()
        if len(self._written) >= self._prune_at:  # of what is long past, or gone, nothing need be known
            self._written = {w: at for w, at in self._written.items() if now - at < FIGURES_SECONDS}
            self._prune_at = 2 * len(self._written) + 1000
        self._written[who] = now

    async def _apply(self, kind: Kind, metadata: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        manifest = {
            "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
            "kind": _KINDS[kind],
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "status": dict(status),
        }
        metrics.STATUS_WRITES.labels(kind).inc()
        try:
            written = await self._kubernetes.apply_status(kind, manifest)
        except NotFound:
            return  # it was deleted meanwhile
        self._cache.take(kind, "MODIFIED", written)


def urgency(before: Mapping[str, Any], after: Mapping[str, Any]) -> Literal["now", "shared", "figures"]:
    """How soon a status is to be written that differs from the one that is there."""
    then, now = _substance(before), _substance(after)
    if then == now:
        return "figures"
    reasons = {plan.summary(before).get("reason"), plan.summary(after).get("reason")}
    store = Reason.STORE_UNAVAILABLE in reasons or reasons == {Reason.AVAILABLE, Reason.STORE_EVICTS}
    same_spec = before.get("observedGeneration") == after.get("observedGeneration")
    return "shared" if store and same_spec else "now"


def _substance(status: Mapping[str, Any]) -> Any:
    """A status without what may wait: how many wait and run (other than whether any do), times, words."""
    figures = {field: bool(status.get(field)) for field in plan.FIGURES}
    conditions = [(c["type"], c["status"], c["reason"]) for c in status.get("conditions", [])]
    left_out = {"conditions", *plan.FIGURES, *heartbeat.TIMES}
    return figures, conditions, {k: v for k, v in status.items() if k not in left_out}
