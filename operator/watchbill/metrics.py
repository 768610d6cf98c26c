"""Every Prometheus metric, declared once. Labels stay bounded: crews, agents, outcomes; never ids.

Process-wide (prometheus_client's default registry), because a process exposes one page. docs/metrics.md explains them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from watchbill import __version__

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BRIEF_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

BUILD: Final = Info("watchbill_build", "Version of this process")
BUILD.info({"version": __version__})

# ---------------------------------------------------------------- queues, as the store has them


class OfClass(Protocol):
    """What waits in one priority class."""

    @property
    def name(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def oldest_ms(self) -> int | None: ...


class Figures(Protocol):
    """How much a crew has to do: store.figures.Figures, which this layer may not import."""

    @property
    def waiting(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def parked(self) -> int: ...
    @property
    def parked_by(self) -> Mapping[str, int]: ...
    @property
    def dead(self) -> int: ...
    @property
    def oldest_ms(self) -> int | None: ...
    @property
    def classes(self) -> Sequence[OfClass]: ...
    @property
    def workers(self) -> int: ...
    @property
    def draining(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def trimmed(self) -> int: ...


_Row = tuple[tuple[str, ...], float]
"""Values of the labels behind `crew`, and the value."""

_OF_QUEUES: Final[tuple[tuple[str, str, tuple[str, ...], Callable[[Figures], Iterable[_Row]]], ...]] = (
    (
        "watchbill_queue_depth",
        "Tasks by where they stand",
        ("state",),
        lambda f: [((s,), getattr(f, s)) for s in ("waiting", "running", "parked", "delayed", "dead")],
    ),
    (
        "watchbill_queue_oldest_seconds",
        "Age of the entry that has waited longest; 0 when none waits",
        (),
        lambda f: [((), (f.oldest_ms or 0) / 1000)],
    ),
    (
        "watchbill_queue_class_waiting",
        "Tasks that wait, by priority",
        ("priority",),
        lambda f: [((c.name,), c.waiting) for c in f.classes],
    ),
    (
        "watchbill_queue_class_oldest_seconds",
        "Age of the entry that has waited longest, by priority; 0 when none waits",
        ("priority",),
        lambda f: [((c.name,), (c.oldest_ms or 0) / 1000) for c in f.classes],
    ),
    (
        "watchbill_queue_parked",
        "Tasks that wait for something other than a slot, by what that is",
        ("reason",),
        lambda f: [((reason,), count) for reason, count in f.parked_by.items()],
    ),
    ("watchbill_workers", "Worker incarnations with a live lease", (), lambda f: [((), f.workers)]),
    ("watchbill_workers_draining", "Those of them that claim no more", (), lambda f: [((), f.draining)]),
    ("watchbill_worker_slots", "Tasks that they can run at once", (), lambda f: [((), f.slots)]),
    (
        "watchbill_submissions_refused_total",
        "Submissions refused because the queue was full, since the crew was made",
        (),
        lambda f: [((), f.refused)],
    ),
    (
        "watchbill_dead_letters_trimmed_total",
        "Dead letters that fell off their end, since the crew was made",
        (),
        lambda f: [((), f.trimmed)],
    ),
)

SHOWN_IDLE_SECONDS: Final = 900.0
"""How long a crew is shown that has neither work nor workers: so that zeros are seen, and thousands of idle crews
cost nothing."""


@dataclass(slots=True)
class _Shown:
    figures: Figures
    read_at: float
    busy_at: float


class Queues(Collector):
    """Crews' queues as they were last read. A scrape reads nothing: it must not fail when the store does."""

    def __init__(self) -> None:
        self._crews: dict[str, _Shown] = {}

    def show(self, crew: str, figures: Figures | None) -> None:
        """From now on these; None: there is no such crew any more."""
        now = time.monotonic()
        before = self._crews.pop(crew, None)  # the one read last is the last in order
        if figures is None:
            return
        if _is_busy(figures):
            self._crews[crew] = _Shown(figures, now, now)
        elif before is not None and now - before.busy_at < SHOWN_IDLE_SECONDS:
            self._crews[crew] = _Shown(figures, now, before.busy_at)

    def forget(self, crew: str) -> None:
        self._crews.pop(crew, None)

    def due(self, seconds: float) -> list[str]:
        """The crews whose figures may have changed and were read longer ago than that, those first that were read
        first. What becomes of an idle crew is told by whoever looks after it."""
        now = time.monotonic()
        for crew in [c for c, shown in self._crews.items() if now - shown.busy_at >= SHOWN_IDLE_SECONDS]:
            if not _is_busy(self._crews[crew].figures):
                del self._crews[crew]
        return [c for c, shown in self._crews.items() if now - shown.read_at >= seconds and _is_busy(shown.figures)]

    def collect(self) -> Iterable[Metric]:
        for name, help_text, labels, rows in _OF_QUEUES:
            family: CounterMetricFamily | GaugeMetricFamily
            if name.endswith("_total"):
                family = CounterMetricFamily(name, help_text, labels=["crew", *labels])
            else:
                family = GaugeMetricFamily(name, help_text, labels=["crew", *labels])
            for crew, shown in self._crews.items():
                for values, value in rows(shown.figures):
                    family.add_metric([crew, *values], value)
            yield family


def _is_busy(figures: Figures) -> bool:
    work = figures.waiting + figures.running + figures.delayed + figures.parked + figures.dead
    return work + figures.workers > 0


QUEUES: Final = Queues()
REGISTRY.register(QUEUES)

# ---------------------------------------------------------------- what a worker process does

TASKS_CLAIMED: Final = Counter("watchbill_tasks_claimed", "Tasks begun by this process", ["crew", "priority"])
TASKS: Final = Counter("watchbill_tasks", "Tasks ended by this process", ["crew", "agent", "outcome"])
"""outcome: completed, failed, dead, retry (an attempt that another follows), cancelled, interrupted, stale (ended here,
but no longer ours: nothing was stored)."""
TASKS_RUNNING: Final = Gauge("watchbill_worker_tasks_running", "Tasks running in this process", ["crew"])


class Times(Histogram):
    """A histogram that takes many values at once: each lock that `observe` takes costs as much as counting.

    prometheus_client has no public way to that; a test holds it to what `observe` does."""

    def observe_all(self, seconds: Sequence[float]) -> None:
        """As `observe` with each of them."""
        counts = [0] * len(self._upper_bounds)
        for value in seconds:
            counts[bisect_left(self._upper_bounds, value)] += 1
        self._sum.inc(sum(seconds))
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


TASK_WAIT: Final = Times(
    "watchbill_task_wait_seconds",
    "From the stream to a worker, by the store's clock; of tasks that no worker had before",
    ["crew"],
    buckets=_SECONDS,
)
TASK_BEGIN_DELAY: Final = Times(
    "watchbill_task_begin_delay_seconds",
    "From its claim until its agent began, of tasks that could not begin with their claim",
    ["crew"],
    buckets=_BRIEF_SECONDS,
)
TASK_RUN: Final = Times("watchbill_task_run_seconds", "Run time of an agent", ["crew", "agent"], buckets=_SECONDS)
TOKENS: Final = Counter("watchbill_tokens", "Tokens charged by models", ["crew", "agent", "kind"])
"""kind: input, output."""
TAKEOVERS: Final = Counter(
    "watchbill_takeovers", "Tasks taken over from workers that were dead, or that handed them back", ["crew"]
)
FENCED: Final = Counter("watchbill_worker_fenced", "Times this process was taken for dead", ["crew"])
RENEWALS_LATE: Final = Counter(
    "watchbill_lease_renewals_late", "Renewals that came later than half a lease after the one before", ["crew"]
)
LOOP_BLOCKED: Final = Counter(
    "watchbill_worker_loop_blocked", "Times an agent blocked the event loop for seconds", ["crew", "agent"]
)
"""agent: empty when it can't be told, as when a task of asyncio's own that it started blocks the loop."""
ABANDONED: Final = Gauge(
    "watchbill_worker_abandoned", "Agents that still run, though they were told to stop; each holds a slot", ["crew"]
)

BACKGROUND_RESTARTS: Final = Counter(
    "watchbill_background_restarts", "Times that work in the background of this process failed and began anew", ["task"]
)

HEARTBEATS_FIRED: Final = Counter("watchbill_heartbeats_fired", "Slots fired by this process", ["crew", "heartbeat"])
HEARTBEATS_MISSED: Final = Counter(
    "watchbill_heartbeats_missed", "Slots skipped because nobody was there", ["crew", "heartbeat"]
)

# ---------------------------------------------------------------- the operator: of the whole process, none by crew

RECONCILES: Final = Counter("watchbill_operator_reconciles", "Reconciliations of a crew", ["result"])
"""result: ok, again (something is expected to change by itself), failed (tried again with growing pauses)."""
RECONCILE_SECONDS: Final = Histogram(
    "watchbill_operator_reconcile_seconds", "Duration of a reconciliation", buckets=_SECONDS
)
WORKQUEUE_DEPTH: Final = Gauge("watchbill_operator_workqueue_depth", "Crews that wait to be reconciled")
SCALE_DECISIONS: Final = Counter("watchbill_operator_scale_decisions", "Changes of a crew's worker count", ["reason"])
"""reason: as in plan/replicas.py: scale-up, idle, bounds, external."""
STATUS_WRITES: Final = Counter("watchbill_operator_status_writes", "Statuses written to the API server", ["kind"])
"""kind: crews, heartbeats."""
STORE_UP: Final = Gauge("watchbill_operator_store_up", "1 while the store answers the operator, 0 while it doesn't")
STORE_EVICTS: Final = Gauge(
    "watchbill_operator_store_evicts", "1 while the store may delete work: a maxmemory-policy other than noeviction"
)
WATCH_RESTARTS: Final = Counter("watchbill_operator_watch_restarts", "Times the watch of the API server ended")
