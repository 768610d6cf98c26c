"""Counts for the metrics of a worker. A metric's own lock costs more than the rest of counting, so metrics are changed
once for each call to the store, and not for each task."""

from __future__ import annotations

from collections import defaultdict

from prometheus_client import Counter

from watchbill import metrics
from watchbill.store.queue import Claimed
from watchbill.tasks import Priority


class Counts:
    """The counts of one worker. Nothing is shown before `show`, except takeovers and fencings."""

    def __init__(self, crew: str) -> None:
        self._crew = crew
        self._claimed = {int(p): metrics.TASKS_CLAIMED.labels(crew, p.name.lower()) for p in Priority}
        self._outcomes: dict[tuple[str, str], Counter] = {}
        self._running = metrics.TASKS_RUNNING.labels(crew)
        self._shown = 0
        self._tally: dict[Counter, int] = defaultdict(int)
        self._times: dict[metrics.Times, list[float]] = defaultdict(list)
        self._waited = self._times[metrics.TASK_WAIT.labels(crew)]
        self._begin_delays = self._times[metrics.TASK_BEGIN_DELAY.labels(crew)]
        self._ran: dict[str, list[float]] = {}
        self.taken_over = metrics.TAKEOVERS.labels(crew)
        self.fenced = metrics.FENCED.labels(crew)

    def claimed(self, task: Claimed) -> None:
        self._tally[self._claimed[task.priority]] += 1

    def waited(self, seconds: float) -> None:
        self._waited.append(seconds)

    def begin_delay(self, seconds: float) -> None:
        self._begin_delays.append(seconds)

    def ran(self, agent: str, seconds: float) -> None:
        times = self._ran.get(agent)
        if times is None:
            times = self._ran[agent] = self._times[metrics.TASK_RUN.labels(self._crew, agent)]
        times.append(seconds)

    def ended(self, agent: str, outcome: str) -> None:
        counter = self._outcomes.get((agent, outcome))
        if counter is None:
            counter = self._outcomes[agent, outcome] = metrics.TASKS.labels(self._crew, agent, outcome)
        self._tally[counter] += 1

    def show(self, running: int) -> None:
        """Brings the metrics up to date. `running`: how many tasks run."""
        for counter, n in self._tally.items():
            counter.inc(n)
        self._tally.clear()
        for histogram, times in self._times.items():
            if times:
                histogram.observe_all(times)
                times.clear()
        if running != self._shown:
            self._running.inc(running - self._shown)
            self._shown = running
