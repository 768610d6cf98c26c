"""Every Prometheus metric, declared once. Labels stay bounded: crews, agents, outcomes; never ids.

Process-wide (prometheus_client's default registry), because a process exposes one page. docs/metrics.md explains them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from watchbill import __version__
from watchbill.clock import SYSTEM, Clock

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BRIEF_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

BUILD: Final = Info("watchbill_build", "Version of Watchbill that this process runs")
BUILD.info({"version": __version__})

# ---------------------------------------------------------------- queues, as the store has them


class OfClass(Protocol):
    """The tasks that wait in one priority class."""

    @property
    def name(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def oldest_ms(self) -> int | None: ...


class Deliveries(Protocol):
    """The deliveries of a crew."""

    @property
    def waiting(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def dead(self) -> int: ...
    @property
    def oldest_ms(self) -> int | None: ...


class Figures(Protocol):
    """The figures of a crew's queue: store.figures.Figures, which this layer may not import."""

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
    @property
    def deliveries(self) -> Deliveries | None: ...


_Row = tuple[tuple[str, ...], float]
"""Values of the labels behind `crew`, and the value."""

_OF_QUEUES: Final[tuple[tuple[str, str, tuple[str, ...], Callable[[Figures], Iterable[_Row]]], ...]] = (
    (
        "watchbill_queue_depth",
        "Tasks and dead letters of a crew, by state",
        ("state",),
        lambda f: [((s,), getattr(f, s)) for s in ("waiting", "running", "parked", "delayed", "dead")],
    ),
    (
        "watchbill_queue_oldest_seconds",
        "Age of the task that has waited longest; 0 when none waits",
        (),
        lambda f: [((), (f.oldest_ms or 0) / 1000)],
    ),
    (
        "watchbill_queue_class_waiting",
        "Tasks that wait for a worker, by priority",
        ("priority",),
        lambda f: [((c.name,), c.waiting) for c in f.classes],
    ),
    (
        "watchbill_queue_class_oldest_seconds",
        "Age of the task that has waited longest, by priority; 0 when none waits",
        ("priority",),
        lambda f: [((c.name,), (c.oldest_ms or 0) / 1000) for c in f.classes],
    ),
    (
        "watchbill_queue_parked",
        "Tasks set aside from the queue, by reason",
        ("reason",),
        lambda f: [((reason,), count) for reason, count in f.parked_by.items()],
    ),
    ("watchbill_workers", "Workers with a live lease", (), lambda f: [((), f.workers)]),
    (
        "watchbill_workers_draining",
        "Workers with a live lease that claim no more tasks",
        (),
        lambda f: [((), f.draining)],
    ),
    ("watchbill_worker_slots", "Tasks that the crew's workers can run at once", (), lambda f: [((), f.slots)]),
    (
        "watchbill_submissions_refused_total",
        "Submissions refused since the crew was made because the queue was full",
        (),
        lambda f: [((), f.refused)],
    ),
    (
        "watchbill_dead_letters_trimmed_total",
        "Dead letters removed since the crew was made because there were too many",
        (),
        lambda f: [((), f.trimmed)],
    ),
    (
        "watchbill_delivery_depth",
        "Deliveries and their dead letters of a crew that delivers results, by state",
        ("state",),
        lambda f: [((s,), getattr(f.deliveries, s)) for s in ("waiting", "running", "delayed", "dead") if f.deliveries],
    ),
    (
        "watchbill_delivery_oldest_seconds",
        "Age of the delivery that has waited longest; 0 when none waits",
        (),
        lambda f: [((), (f.deliveries.oldest_ms or 0) / 1000)] if f.deliveries else [],
    ),
)

SHOWN_IDLE_SECONDS: Final = 900.0
"""Seconds for which a crew without work and workers is still exported. Scrapes then see its zeros, and thousands of
idle crews cost nothing."""


@dataclass(slots=True)
class _Shown:
    figures: Figures
    read_at: float
    busy_at: float


class Queues(Collector):
    """Exports the figures of queues as last read. A scrape does not read the store, so it outlasts an outage."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._crews: dict[str, _Shown] = {}

    def show(self, crew: str, figures: Figures | None) -> None:
        """Exports these figures from now on. None: the crew is gone, and is no longer exported."""
        now = self._clock.monotonic()
        before = self._crews.pop(crew, None)  # the one read last is the last in order
        if figures is None:
            return
        if _is_busy(figures):
            self._crews[crew] = _Shown(figures, now, now)
        elif before is not None and now - before.busy_at < SHOWN_IDLE_SECONDS:
            self._crews[crew] = _Shown(figures, now, before.busy_at)

    def remove(self, crew: str) -> None:
        self._crews.pop(crew, None)

    def clear(self) -> None:
        """Exports no crew until it is shown again."""
        self._crews.clear()

    def due(self, seconds: float) -> list[str]:
        """The busy crews whose figures were last read more than `seconds` ago, the oldest figures first.

        An idle crew is not among them: its worker or the operator calls `show` when it changes.
        """
        now = self._clock.monotonic()
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
            for crew, shown in list(self._crews.items()):  # of one moment: any thread may export them
                for values, value in rows(shown.figures):
                    family.add_metric([crew, *values], value)
            yield family


def _is_busy(figures: Figures) -> bool:
    work = figures.waiting + figures.running + figures.delayed + figures.parked + figures.dead
    if found := figures.deliveries:
        work += found.waiting + found.running + found.delayed + found.dead
    return work + figures.workers > 0


QUEUES: Final = Queues()
REGISTRY.register(QUEUES)

# ---------------------------------------------------------------- what a worker process does

TASKS_CLAIMED: Final = Counter("watchbill_tasks_claimed", "Attempts begun by this process", ["crew", "priority"])
TASKS: Final = Counter("watchbill_tasks", "Attempts ended by this process", ["crew", "agent", "outcome"])
"""outcome: completed, failed, dead, retry (another attempt follows), cancelled, interrupted, stale (another worker had
taken the task over: nothing was stored)."""
TASKS_RUNNING: Final = Gauge("watchbill_worker_tasks_running", "Tasks that run in this process", ["crew"])


DELIVERIES: Final = Counter(
    "watchbill_deliveries", "Attempts of this process to deliver a result", ["crew", "channel", "outcome"]
)
"""outcome: delivered, retry (another attempt follows), put off (not tried: the destination fails), dead. channel: none
where a delivery died because its crew has no such destination any more."""


class Times(Histogram):
    """A histogram that counts many values at once: each lock that `observe` takes costs as much as the counting.

    prometheus_client has no public method for it. A test compares the result with that of `observe`.
    """

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Counts each value, as `observe` does."""
        counts = [0] * len(self._upper_bounds)
        for value in seconds:
            counts[bisect_left(self._upper_bounds, value)] += 1
        self._sum.inc(sum(seconds))
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


TASK_WAIT: Final = Times(
    "watchbill_task_wait_seconds",
    "Time that a task waits for its first worker, by the store's clock",
    ["crew"],
    buckets=_SECONDS,
)
TASK_BEGIN_DELAY: Final = Times(
    "watchbill_task_begin_delay_seconds",
    "Time from claim to begin of a task that could not begin with its claim",
    ["crew"],
    buckets=_BRIEF_SECONDS,
)
TASK_RUN: Final = Times(
    "watchbill_task_run_seconds", "Time that an agent runs for one attempt", ["crew", "agent"], buckets=_SECONDS
)
TOKENS: Final = Counter("watchbill_tokens", "Tokens that models charged", ["crew", "agent", "kind"])
"""kind: input, output."""
TAKEOVERS: Final = Counter(
    "watchbill_takeovers", "Tasks taken over from workers that died or handed them back", ["crew"]
)
FENCED: Final = Counter(
    "watchbill_worker_fenced", "Times that this process was fenced because its lease had ended", ["crew"]
)
RENEWALS_LATE: Final = Counter(
    "watchbill_lease_renewals_late", "Lease renewals that came more than half a lease after the one before", ["crew"]
)
LOOP_BLOCKED: Final = Counter(
    "watchbill_worker_loop_blocked", "Times that an agent blocked the event loop for seconds", ["crew", "agent"]
)
"""agent: empty when it is unknown, for example when an asyncio task that the agent started blocks the loop."""
ABANDONED: Final = Gauge(
    "watchbill_worker_abandoned", "Agents that still run although they were asked to stop; each holds a slot", ["crew"]
)

BACKGROUND_RESTARTS: Final = Counter(
    "watchbill_background_restarts", "Times that a background task of this process failed and was restarted", ["task"]
)

HEARTBEATS_FIRED: Final = Counter(
    "watchbill_heartbeats_fired", "Heartbeat slots that this process fired", ["crew", "heartbeat"]
)
HEARTBEATS_MISSED: Final = Counter(
    "watchbill_heartbeats_missed",
    "Heartbeat slots skipped because no scheduler ran, the queue was full or the last work had not ended",
    ["crew", "heartbeat"],
)

# ---------------------------------------------------------------- the operator: of the whole process, none by crew

LEADER: Final = Gauge("watchbill_operator_leader", "1 while this replica of the operator leads, else 0")
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
STORE_UP: Final = Gauge("watchbill_operator_store_up", "1 while the store answers the operator, else 0")
STORE_EVICTS: Final = Gauge(
    "watchbill_operator_store_evicts", "1 while the store's maxmemory-policy allows it to delete work, else 0"
)
API_SERVER_BUSY: Final = Counter(
    "watchbill_operator_api_server_busy", "Times that the API server asked for a pause (429 or 503)"
)
WATCH_RESTARTS: Final = Counter("watchbill_operator_watch_restarts", "Times that a watch of the API server ended")
