"""Queue figures and idle time → how many workers a crew has. Pure.

Up on what is queued, at once; down only to `minReplicas`, and only after `idleSeconds` without anything waiting or
running. What is not known changes nothing: unknown is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from watchbill.plan.deliveries import SLOTS

Why = Literal["scale-up", "idle", "bounds", "hold", "unknown", "external"]


@dataclass(frozen=True, slots=True)
class Load:
    """The work that a crew has. Parked work doesn't count: no worker could do it."""

    waiting: int
    running: int
    due_in: float | None = None
    """Seconds until delayed work is due; None: there is none."""
    deliveries: int = 0
    """Results that are to be sent now, or are being sent."""

    @property
    def none(self) -> bool:
        return self.waiting + self.running + self.deliveries == 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a crew's workers, and the tasks that each runs at once."""

    min_replicas: int
    max_replicas: int
    concurrency: int
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The desired number of workers, and the reason."""

    replicas: int
    why: Why
    again_seconds: float | None = None
    """Seconds until time alone may change the decision; None: it can't."""


def decide(bounds: Bounds, load: Load | None, current: int, idle_for: float | None) -> Decision:
    """`idle_for`: seconds since the crew last had work, None while it has or where that is unknown."""
    inside = min(max(current, bounds.min_replicas), bounds.max_replicas)
    if load is None:
        return Decision(current, "unknown")
    # A worker sends results beside its tasks, in slots of its own.
    for_tasks = -(-(load.waiting + load.running) // bounds.concurrency)
    wanted = min(max(for_tasks, -(-load.deliveries // SLOTS)), bounds.max_replicas)
    if wanted > inside:
        return Decision(wanted, "scale-up")
    if load.none and inside > bounds.min_replicas:
        if load.due_in is not None and load.due_in <= bounds.idle_seconds:
            return Decision(inside, "hold", max(load.due_in, 0.0))
        if idle_for is None:
            return Decision(inside, "hold", bounds.idle_seconds)
        if idle_for >= bounds.idle_seconds:
            return Decision(bounds.min_replicas, "idle")
        return Decision(inside, "hold", bounds.idle_seconds - idle_for)
    return Decision(inside, "bounds" if inside != current else "hold")
