"""Counts for the metrics of a worker. A metric's own lock costs more than the rest of counting, so metrics are changed
once for each call to the store, and not for each task."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from prometheus_client import Counter

from watchbill import metrics
from watchbill.store.queue import Claimed
from watchbill.tasks import Priority

_ENDS: Final = ("completed", "failed", "dead", "cancelled")
"""The outcomes of attempts that end a task."""


class Counts:
    """The counts of one worker. Nothing is shown before `show`, except takeovers and fencings."""

    def __init__(self, crew: str) -> None:
        """`crew`: `namespace/name`."""
        self._of_crew = of_crew = metrics.of_crew(crew)
        self._claimed = {int(p): metrics.TASKS_CLAIMED.labels(*of_crew, p.name.lower()) for p in Priority}
        self._steps = {outcome: metrics.STEPS.labels(*of_crew, outcome) for outcome in _ENDS}
        self._outcomes: dict[tuple[str, str], Counter] = {}
        self._running = metrics.TASKS_RUNNING.labels(*of_crew)
        self._shown = 0
        self._tally: dict[Counter, int] = defaultdict(int)
        self._times: dict[metrics.Times, list[float]] = defaultdict(list)
        self._waited = self._times[metrics.TASK_WAIT.labels(*of_crew)]
        self._begin_delays = self._times[metrics.TASK_BEGIN_DELAY.labels(*of_crew)]
        self._ran: dict[str, list[float]] = {}
        self.taken_over = metrics.TAKEOVERS.labels(*of_crew)
        self.fenced = metrics.FENCED.labels(*of_crew)

    def claimed(self, task: Claimed) -> None:
        self._tally[self._claimed[task.priority]] += 1

    def waited(self, seconds: float) -> None:
        self._waited.append(seconds)

    def begin_delay(self, seconds: float) -> None:
        self._begin_delays.append(seconds)

    def ran(self, agent: str, seconds: float) -> None:
        times = self._ran.get(agent)
        if times is None:
            shown = metrics.AGENTS.shown(self._of_crew, agent)
            times = self._ran.get(shown)
        if times is None:
            times = self._ran[shown] = self._times[metrics.TASK_RUN.labels(*self._of_crew, shown)]
        times.append(seconds)

    def ended(self, agent: str, outcome: str, *, is_step: bool) -> None:
        """Counts the end of an attempt. `is_step`: its task is a step of a run."""
        counter = self._outcomes.get((agent, outcome))
        if counter is None:
            shown = metrics.AGENTS.shown(self._of_crew, agent)
            counter = self._outcomes.get((shown, outcome))
        if counter is None:
            said = "postponed" if outcome == "later" else outcome
            counter = self._outcomes[shown, outcome] = metrics.TASKS.labels(*self._of_crew, shown, said)
        self._tally[counter] += 1
        if is_step and (steps := self._steps.get(outcome)) is not None:
            self._tally[steps] += 1

    def run_ended(self, outcome: str, seconds: float) -> None:
        """Counts the end of a run. `seconds`: since its submission."""
        metrics.RUN_TIME.labels(*self._of_crew, outcome).observe(seconds)

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
