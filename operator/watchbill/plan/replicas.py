"""Queue figures, the past and the bounds → how many workers a crew wants. Pure.

Wanted is what runs all that waits and runs at once. Up at once, unless the crew says otherwise; down to what was wanted
at most within a window, and to `minReplicas` only after `idleSeconds` without anything waiting or running. What is not
known changes nothing: unknown is never zero. plan/drain.py says how workers leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from watchbill.api.workers import ScaleDown, ScaleUp, ScalingPolicy
from watchbill.plan.deliveries import SLOTS

Why = Literal["scale-up", "scale-down", "idle", "bounds", "hold", "unknown", "external", "suspended", "quota"]

Noted = tuple[tuple[float, int], ...]
"""(time, number), oldest first. Times are of a monotonic clock, in seconds."""

CHANGES_SECONDS: Final = 1800.0
"""The longest period of a policy."""


@dataclass(frozen=True, slots=True)
class Load:
    """The work that a crew has. Parked work doesn't count: no worker could do it."""

    waiting: int
    running: int
    due_in: float | None = None
    """Seconds until delayed work is due; None: there is none."""
    deliveries: int = 0
    """Results that are to be sent now, or are being sent."""
    critical: int = 0
    """Number of waiting tasks of the priority CRITICAL."""
    oldest_seconds: float = 0.0
    """Age of the task that has waited longest; 0: none waits."""
    has_batches: bool = False
    """Requests wait for batches of models' providers, which one worker looks after."""

    @property
    def none(self) -> bool:
        return self.waiting + self.running + self.deliveries == 0 and not self.has_batches

    @property
    def beside(self) -> int:
        """Workers that are needed for what they do beside tasks."""
        return max(-(-self.deliveries // SLOTS), int(self.has_batches))


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a crew's workers, and the tasks that each runs at once."""

    min_replicas: int
    max_replicas: int
    concurrency: int
    idle_seconds: float
    up: ScaleUp = field(default_factory=ScaleUp)
    down: ScaleDown = field(default_factory=ScaleDown)
    at_once: int | None = None
    """The tasks that may run at once, by the limits of all agents; None: any number."""

    def clamp(self, number: int) -> int:
        return min(max(number, self.min_replicas), self.max_replicas)


@dataclass(frozen=True, slots=True)
class Past:
    """The memory of earlier decisions. Without it nothing goes down before a window is over: what was there when it
    began counts as wanted then."""

    highs: Noted = ()
    """The last time at which each number was wanted, without those that a later, higher one outlasts."""
    lows: Noted = ()
    """As `highs`, without those that a later, lower one outlasts."""
    changes: Noted = ()
    """By how many workers the crew was changed, and when."""
    size: int | None = None
    """The number that was last decided on."""

    def wanted(self, now: float, number: int, current: int) -> Past:
        """Notes a number that is wanted; `current`: the one that there is. What was noted last was wanted until now:
        nobody looks at a crew while nothing changes."""
        highs = (*self.highs[:-1], (now, self.highs[-1][1] if self.highs else current))
        lows = (*self.lows[:-1], (now, self.lows[-1][1] if self.lows else current))
        return replace(
            self,
            highs=(*(entry for entry in highs if entry[1] > number), (now, number)),
            lows=(*(entry for entry in lows if entry[1] < number), (now, number)),
            changes=tuple(entry for entry in self.changes if entry[0] > now - CHANGES_SECONDS),
        )

    def most(self, since: float) -> tuple[float, int]:
        """The highest number that was wanted after that time, or is now, and when it last was. Call `wanted` first."""
        return next(entry for entry in self.highs if entry[0] > since or entry == self.highs[-1])

    def least(self, since: float) -> tuple[float, int]:
        """The lowest number that was wanted after that time, or is now, and when it last was. Call `wanted` first."""
        return next(entry for entry in self.lows if entry[0] > since or entry == self.lows[-1])

    def changed(self, now: float, size: int, by: int) -> Past:
        """Notes the decision for this size."""
        return replace(self, size=size, changes=(*self.changes, (now, by)) if by else self.changes)


@dataclass(frozen=True, slots=True)
class Held:
    """The bound by which the number of workers isn't the one that the tasks ask for."""

    by: Literal["window", "policy", "waits", "critical", "quota"]
    """`window`, `policy`: of `scaling`; `waits`: a task has waited for `scaling.up.waitSeconds`, so that nobody leaves;
    `critical`: one of the priority CRITICAL waits, so that nobody leaves; `quota`: that of the namespace."""
    wanted: int
    seconds: float | None = None
    """Seconds until it may change by itself; None: not before something else changes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The desired number of workers, and the reason."""

    replicas: int
    why: Why
    again_seconds: float | None = None
    """Seconds until the crew may count as idle; None: it can't, unless something else changes."""
    past: Past = field(default=Past(), compare=False)
    """The memory for the next decision."""
    held: Held | None = field(default=None, compare=False)


def decide(
    bounds: Bounds,
    load: Load | None,
    current: int,
    idle_for: float | None,
    *,
    up: int | None = None,
    past: Past = Past(),
    now: float = 0.0,
) -> Decision:
    """`current`: workers that there are, or that start; `up`: those of them that claim, None where that is unknown.
    `idle_for`: seconds since the crew last had work, None while it has or where that is unknown."""
    if load is None:
        return Decision(current, "unknown", past=past)
    inside = bounds.clamp(current)
    is_idle, again = _idle(bounds, load, inside, idle_for)
    waits_long = load.waiting > 0 and load.oldest_seconds >= bounds.up.wait_seconds
    wanted = _wanted(bounds, load, inside)
    if waits_long and wanted <= inside and up is not None and up >= inside:
        wanted = bounds.clamp(inside + 1)  # the workers there are don't take it: abandoned agents hold slots, say
    past = past.wanted(now, wanted, inside)
    decided, held = inside, None
    why: Why = "bounds" if inside != current else "hold"
    if is_idle:
        decided, why = bounds.min_replicas, "idle"
    elif wanted > inside:
        is_urgent = waits_long or load.critical > 0
        decided, held = (wanted, None) if is_urgent else _ceiling(bounds.up, inside, wanted, past, now)
    elif wanted < inside and (waits_long or load.critical):
        held = Held("waits" if waits_long else "critical", wanted)
    elif wanted < inside:
        decided, held = _floor(bounds.down, inside, wanted, past, now)
    if decided > inside:
        why = "scale-up"
    elif decided < inside and not is_idle:
        why = "scale-down"
    return Decision(decided, why, again, past.changed(now, decided, decided - current), held)


def at_most(decision: Decision, most: int, current: int, past: Past, now: float) -> Decision:
    """Returns the decision for a crew that may have no more than `most` workers, by the quota of its namespace.
    `current`, `past`: as the decision was made from. What is not known changes nothing here, either."""
    if decision.replicas <= most or decision.why == "unknown":
        return decision
    wanted = max(decision.replicas, decision.held.wanted if decision.held is not None else 0)
    noted = replace(decision.past, changes=past.changes).changed(now, most, most - current)
    return Decision(most, "quota", decision.again_seconds, noted, Held("quota", wanted))


def of_suspended(bounds: Bounds, load: Load | None, current: int, past: Past, now: float) -> Decision:
    """A crew none of whose tasks begins: as many workers as its deliveries and batches need, whatever its bounds."""
    wanted = current if load is None else min(load.beside, bounds.max_replicas)
    return Decision(wanted, "unknown" if load is None else "suspended", past=past.changed(now, wanted, 0))


# -------------------------------------------------------------------- within


def _wanted(bounds: Bounds, load: Load, inside: int) -> int:
    if load.none:  # one stays until the crew counts as idle
        return bounds.clamp(min(inside, 1))
    tasks = load.waiting + load.running
    for_tasks = -(-min(tasks, bounds.at_once or tasks) // bounds.concurrency)
    # A worker sends results beside its tasks, in slots of its own.
    return bounds.clamp(max(for_tasks, load.beside))


def _idle(bounds: Bounds, load: Load, inside: int, idle_for: float | None) -> tuple[bool, float | None]:
    """Returns whether the crew counts as idle, and in how many seconds it may."""
    if not load.none or inside <= bounds.min_replicas:
        return False, None
    if load.due_in is not None and load.due_in <= bounds.idle_seconds:
        return False, max(load.due_in, 0.0)
    if idle_for is None:
        return False, bounds.idle_seconds
    return idle_for >= bounds.idle_seconds, None if idle_for >= bounds.idle_seconds else bounds.idle_seconds - idle_for


def _ceiling(up: ScaleUp, inside: int, wanted: int, past: Past, now: float) -> tuple[int, Held | None]:
    """Returns the highest number that may be now, up to the wanted one, and what holds it. Of several policies the one
    counts that allows the most."""
    allowed = []
    for policy in up.policies:
        added = sum(by for at, by in past.changes if by > 0 and at > now - policy.period_seconds)
        base = max(inside - added, 0)
        more = policy.value if policy.type == "Pods" else math.ceil(base * policy.value / 100)
        allowed.append(max(base + more, 1))  # or no percentage would ever leave 0
    low_at, low = past.least(now - up.stabilization_window_seconds)
    found = max(inside, min(low, max(allowed, default=low)))
    if found >= wanted:
        return wanted, None
    if low < wanted:
        return found, Held("window", wanted, low_at + up.stabilization_window_seconds - now)
    return found, Held("policy", wanted, _policy_seconds(up.policies, past, now, grows=True))


def _floor(down: ScaleDown, inside: int, wanted: int, past: Past, now: float) -> tuple[int, Held | None]:
    """Returns the lowest number that may be now, down to the wanted one, and what holds it. Of several policies the one
    counts that allows the most."""
    allowed = []
    for policy in down.policies:
        removed = sum(-by for at, by in past.changes if by < 0 and at > now - policy.period_seconds)
        base = inside + removed
        less = policy.value if policy.type == "Pods" else math.ceil(base * policy.value / 100)
        allowed.append(base - less)
    high_at, high = past.most(now - down.stabilization_window_seconds)
    found = min(inside, max(high, min(allowed, default=high)))
    if found <= wanted:
        return wanted, None
    if high > wanted:
        return found, Held("window", wanted, high_at + down.stabilization_window_seconds - now)
    return found, Held("policy", wanted, _policy_seconds(down.policies, past, now, grows=False))


def _policy_seconds(policies: Sequence[ScalingPolicy], past: Past, now: float, *, grows: bool) -> float:
    """Returns in how many seconds a policy allows more. A change that is made now counts from now on."""
    ends = [
        at + policy.period_seconds - now
        for policy in policies
        for at, by in past.changes
        if (by > 0) == grows and by and at > now - policy.period_seconds
    ]
    return min(ends, default=float(min(policy.period_seconds for policy in policies)))
