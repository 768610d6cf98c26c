"""The figures of crews' queues as metrics, as they were last read from the store.

Written here and not by prometheus_client, which takes several times as long: the operator shows thousands of crews.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client.utils import floatToGoString

from watchbill.clock import SYSTEM, Clock
from watchbill.metrics.labels import OF_CREW, of_crew


class OfClass(Protocol):
    """The tasks that wait in one priority class."""

    @property
    def name(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def running(self) -> int: ...
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
    def suspended(self) -> bool: ...
    @property
    def deliveries(self) -> Deliveries | None: ...


_Row = tuple[tuple[str, ...], float]
"""Values of the labels behind those of the crew, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric of queues. It is a counter if its name says so, else a gauge."""

    name: str
    help: str
    labels: tuple[str, ...]
    """Labels behind the crew's. Their names sort after `namespace`: prometheus_client sorts them."""
    rows: Callable[[Figures], Iterable[_Row]]

    @property
    def type(self) -> str:
        return "counter" if self.name.endswith("_total") else "gauge"


FAMILIES: Final = (
    Family(
        "watchbill_queue_depth",
        "Tasks and dead letters of a crew, by state",
        ("state",),
        lambda f: [((s,), getattr(f, s)) for s in ("waiting", "running", "parked", "delayed", "dead")],
    ),
    Family(
        "watchbill_queue_oldest_seconds",
        "Age of the task that has waited longest; 0 when none waits",
        (),
        lambda f: [((), (f.oldest_ms or 0) / 1000)],
    ),
    Family(
        "watchbill_queue_class_waiting",
        "Tasks that wait for a worker, by priority",
        ("priority",),
        lambda f: [((c.name,), c.waiting) for c in f.classes],
    ),
    Family(
        "watchbill_queue_class_oldest_seconds",
        "Age of the task that has waited longest, by priority; 0 when none waits",
        ("priority",),
        lambda f: [((c.name,), (c.oldest_ms or 0) / 1000) for c in f.classes],
    ),
    Family(
        "watchbill_queue_parked",
        "Tasks set aside from the queue, by reason",
        ("reason",),
        lambda f: [((reason,), count) for reason, count in f.parked_by.items()],
    ),
    Family(
        "watchbill_queue_suspended",
        "1 while no task of the crew begins because it is suspended, else 0",
        (),
        lambda f: [((), float(f.suspended))],
    ),
    Family("watchbill_workers", "Workers with a live lease", (), lambda f: [((), f.workers)]),
    Family(
        "watchbill_workers_draining",
        "Workers with a live lease that claim no more tasks",
        (),
        lambda f: [((), f.draining)],
    ),
    Family("watchbill_worker_slots", "Tasks that the crew's workers can run at once", (), lambda f: [((), f.slots)]),
    Family(
        "watchbill_submissions_refused_total",
        "Submissions refused since the crew was made because the queue was full",
        (),
        lambda f: [((), f.refused)],
    ),
    Family(
        "watchbill_dead_letters_trimmed_total",
        "Dead letters removed since the crew was made because there were too many",
        (),
        lambda f: [((), f.trimmed)],
    ),
    Family(
        "watchbill_delivery_depth",
        "Deliveries and their dead letters of a crew that delivers results, by state",
        ("state",),
        lambda f: [((s,), getattr(f.deliveries, s)) for s in ("waiting", "running", "delayed", "dead") if f.deliveries],
    ),
    Family(
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
    labels: str
    """Labels of the crew, as they are written."""
    priorities: frozenset[str]
    """Priorities that tasks have had while the crew was shown. Most crews use one of five, and a page with all of them
    would be half as large again."""


class Queues:
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
        is_busy = _is_busy(figures)
        if is_busy or (before is not None and now - before.busy_at < SHOWN_IDLE_SECONDS):
            labels = before.labels if before is not None else _written(sorted(zip(OF_CREW, of_crew(crew), strict=True)))
            busy_at = now if before is None or is_busy else before.busy_at
            priorities = {c.name for c in figures.classes if c.waiting or c.running}
            known = before.priorities if before is not None else frozenset()
            self._crews[crew] = _Shown(figures, now, busy_at, labels, known | priorities)

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

    def text(self, *, is_open_metrics: bool) -> str:
        """Returns the metrics as prometheus_client writes them: as Prometheus' text, or as OpenMetrics without the end
        mark."""
        shown = list(self._crews.values())  # of one moment: any thread may export them
        lines: list[str] = []
        for family in FAMILIES:
            name = family.name.removesuffix("_total") if is_open_metrics else family.name
            is_of_priority = "priority" in family.labels
            lines.append(f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n")
            for crew in shown:
                for values, value in family.rows(crew.figures):
                    if is_of_priority and values[0] not in crew.priorities:
                        continue
                    more = _written(zip(family.labels, values, strict=True)) if values else ""
                    labels = f"{crew.labels},{more}" if more else crew.labels
                    lines.append(f"{family.name}{{{labels}}} {floatToGoString(value)}\n")  # type: ignore[no-untyped-call]
        return "".join(lines)


def _written(labels: Iterable[tuple[str, str]]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _is_busy(figures: Figures) -> bool:
    work = figures.waiting + figures.running + figures.delayed + figures.parked + figures.dead
    if found := figures.deliveries:
        work += found.waiting + found.running + found.delayed + found.dead
    return work + figures.workers > 0
