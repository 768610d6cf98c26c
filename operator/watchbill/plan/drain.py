"""Plans for a crew's workers to become fewer, or others, and stops none that is busy. Pure.

A worker that is to leave is drained in the store: it claims no more, and ends what it runs. Only when it holds nothing
does its Deployment get smaller. The ReplicaSet's controller, and not we, chooses the pod that goes: first those that
are not ready. So a Deployment gets smaller only while every pod that is not ready is a drained, empty one, or one that
no worker has ever been seen in; and by no more than those. All of it is read from the store and the Deployments, so it
may be gone on with, or taken back, by an operator that has just started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from watchbill.plan.children import Child

PROBED_SECONDS: Final = 8.0
"""For so long at least the readiness of a worker counts as unknown after it has changed: its probe takes place every
2 s, and fails the third time."""
TOLD_SECONDS: Final = 2.0
"""Seconds from a kubelet's probe until the controllers know of it."""
UNPROBED_SECONDS: Final = 60.0
"""After so long nobody waits for a probe that hasn't come: the crew's template has another one, maybe."""
SURGE: Final = 4
"""A rollout has at most one worker more for each so many that are wanted, and at least one."""


Waits = Literal["", "controller", "probes", "not-ready", "older-release"]


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as the store knows it."""

    name: str
    revision: str | None
    """The template revision of its pod; empty: it is in none; None: it has not said yet."""
    holds: int
    """Tasks and deliveries that it has claimed and not ended."""
    draining: Literal["", "person", "scaling"] = ""
    """The one that asked it to claim no more. What a person drained only a person takes back."""
    age_seconds: float = 0.0
    """Seconds since the store first knew it."""
    empty_seconds: float = 0.0
    """Seconds for which it has been seen drained and empty."""
    probed_seconds: float | None = None
    """Seconds for which its kubelet, by the probes that the worker has answered, knows whether it is ready: until it is
    drained and empty. 0: it doesn't know yet; None: the worker doesn't say, as one of an older release."""

    @property
    def is_empty(self) -> bool:
        """It holds nothing and won't claim again."""
        return bool(self.draining) and not self.holds


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers of a crew, of all revisions."""

    workers: Sequence[Worker] = ()
    undrained_seconds: float = float("inf")
    """Seconds since a drain was last taken back: that worker may not count as ready yet."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next step towards the wanted number of workers."""

    size: int
    """Pods of the serving revision."""
    sizes: tuple[tuple[Child, int], ...] = ()
    """Pods of old revisions, where that changes."""
    drain: tuple[str, ...] = ()
    undrain: tuple[str, ...] = ()
    gone: tuple[Child, ...] = ()
    """Old revisions without any pod."""
    waits: Waits = field(default="", compare=False)
    """The reason why pods stay that could go: a Deployment's status lags, readiness was not seen yet, a busy worker is
    not ready, or one has not said in which pod it is."""


def capacity(children: Sequence[Child], fleet: Fleet | None) -> int:
    """Returns how many workers claim or are about to: all pods but the draining ones."""
    return sum(_Pods(child, fleet).capacity for child in children)


def claiming(children: Sequence[Child], fleet: Fleet | None) -> int | None:
    """Returns how many workers claim; None where that is unknown."""
    return None if fleet is None else sum(len(_Pods(child, fleet).active) for child in children)


def wanted_before(serving: Child | None, old: Sequence[Child], fleet: Fleet | None, known: int | None) -> int:
    """Returns how many workers the crew was to have: those of a rollout's surge don't count. `known`: the number that
    was last decided on; None after a restart of the operator."""
    there = capacity([serving] if serving else [], fleet)
    leaving = capacity(old, fleet)
    if not leaving:
        return there
    return known if known is not None else max(there, leaving, there + leaving - surge(there + leaving))


def surge(wanted: int) -> int:
    """Returns how many workers a rollout may have beyond the wanted ones."""
    return max(wanted // SURGE, 1)


def step(wanted: int, serving: Child | None, old: Sequence[Child], fleet: Fleet | None) -> Step:
    """Plans for `wanted` workers, of the serving revision in the end. `serving`: None where its Deployment is yet to be
    made. `old`: the Deployments of other revisions. `fleet`: None where the store can't say; then nothing leaves."""
    new, olds = _Pods(serving, fleet), [_Pods(child, fleet) for child in sorted(old, key=lambda c: (c.created, c.name))]
    leaving = sum(pods.capacity for pods in olds)
    spare = min(max(leaving + len(new.active) - wanted, 0), leaving)
    sizes: list[tuple[Child, int]] = []
    drained: list[str] = []
    for pods in olds:
        part = min(spare, pods.capacity)
        spare -= part
        left, more, _ = pods.toward(pods.capacity - part)
        drained += more
        if pods.child is not None and left != pods.replicas:
            sizes.append((pods.child, left))
    leaving -= len(drained)  # so that the next ones start in the same step
    room = wanted + surge(wanted) - leaving
    target = min(wanted, max(new.capacity, room)) if leaving else wanted
    size, drain, undrain = new.toward(target)
    drain += drained
    gone = tuple(p.child for p in olds if p.child is not None and p.replicas == 0 and p.child.there == 0)
    waits: Waits = next((pods.waits for pods in (new, *olds) if pods.waits), "")
    return Step(size, tuple(sizes), tuple(drain), tuple(undrain), gone, waits)


class _Pods:
    """The pods of one Deployment, and the workers in them."""

    def __init__(self, child: Child | None, fleet: Fleet | None) -> None:
        workers = fleet.workers if fleet is not None else ()
        own = [worker for worker in workers if child is not None and worker.revision == child.revision]
        self.child = child
        self.is_known = fleet is not None
        self.is_hidden = any(worker.revision is None and worker.holds for worker in workers)
        """A busy worker may be in one of these pods, and has not said so yet."""
        self.undrained_seconds = fleet.undrained_seconds if fleet is not None else 0.0
        self.replicas = child.replicas if child is not None else 0
        self.not_ready = max(self.replicas - child.ready, 0) if child is not None else 0
        self.active = [worker for worker in own if not worker.draining]
        self.draining = [worker for worker in own if worker.draining]
        self.doomed = max(len(own) - self.replicas, 0)
        """Workers whose pods are being deleted: the Deployment has become smaller."""
        self.empty = [worker for worker in self.draining if worker.is_empty]
        self.staying = len(self.empty) - min(self.doomed, len(self.empty))
        """Empty workers whose pods are not being deleted."""
        self.unknown = max(self.replicas - len(own), 0)
        """Pods in which the store knows no worker: they start, wait for a node, or can't work."""
        busy = len(self.draining) - len(self.empty)
        self.is_quiet = not self.active and not busy
        """Whatever pod goes, nothing is lost."""
        self.capacity = max(self.replicas - busy - self.staying, 0)
        self.waits: Waits = ""
        """The reason why empty pods could not go in the step that was planned."""

    def toward(self, target: int) -> tuple[int, list[str], list[str]]:
        """Returns the number of pods for so many that claim, and who is to drain, and to claim again."""
        if target > self.capacity:
            return self._grow(target - self.capacity)
        if not self.is_known:
            return self.replicas, [], []
        return self._shrink(self.capacity - target)

    def _grow(self, number: int) -> tuple[int, list[str], list[str]]:
        back = [worker for worker in self.draining if worker.draining == "scaling"]
        if self.child is None or self.doomed or self.child.there != self.replicas:
            back = [worker for worker in back if worker.holds]  # the pods of others may be on their way out
        back = sorted(back, key=lambda worker: (-worker.holds, worker.name))[:number]
        return self.replicas + number - len(back), [], [worker.name for worker in back]

    def _shrink(self, surplus: int) -> tuple[int, list[str], list[str]]:
        loose = self.unknown if self.is_quiet else min(self.unknown, max(self.not_ready - len(self.empty), 0))
        victims = sorted(self.active, key=lambda worker: (worker.holds, worker.name))
        victims = victims[: surplus - min(loose, surplus)]
        size = self.replicas - self._removable(min(surplus, loose))
        return size, [worker.name for worker in victims], []

    def _removable(self, loose: int) -> int:
        """Returns how many pods may go now. `loose`: those without a worker that are too many."""
        if loose + self.staying == 0:
            return 0
        self.waits = self._waits()
        if self.waits:
            return 0
        if self.is_quiet:
            return loose + self.staying
        removable = min(self.not_ready, loose + len(self.empty))
        self.waits = "" if removable else "probes"
        return removable

    def _waits(self) -> Waits:
        if self.is_hidden:
            return "older-release"
        if self.is_quiet:
            return ""
        if self.child is None or self.doomed or self.child.there != self.replicas:
            return "controller"  # it has yet to follow
        works = [worker for worker in (*self.active, *self.draining) if not worker.is_empty]
        changed = [(worker, min(worker.age_seconds, self.undrained_seconds)) for worker in works]
        changed += [(worker, worker.empty_seconds) for worker in self.empty]
        if any(_may_be_unseen(worker, seconds) for worker, seconds in changed):
            return "probes"  # one that works may count as not ready, or one that is empty as ready
        if self.not_ready > self.unknown + len(self.empty):
            return "not-ready"  # one that works isn't ready: its node is away, say
        return ""


def _may_be_unseen(worker: Worker, seconds: float) -> bool:
    """Returns whether the controllers may take the worker for ready where it is not, or the other way round. `seconds`:
    since that has changed, or may have."""
    is_unprobed = worker.probed_seconds is not None and worker.probed_seconds < TOLD_SECONDS
    return seconds < PROBED_SECONDS or (is_unprobed and seconds < UNPROBED_SECONDS)
