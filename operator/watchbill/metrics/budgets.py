"""The figures of crews' budgets as metrics, as they were last read from the store."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge

from watchbill.metrics.labels import of_crew


class BudgetFigures:
    """Exports the figures of budgets. A crew without budgets costs nothing."""

    def __init__(self, used: Gauge, exhausted: Gauge) -> None:
        """The labels of both are those of the crew, and budget."""
        self._gauges = (used, exhausted)
        self._shown: dict[str, set[str]] = {}

    def show(self, crew: str, figures: Mapping[str, tuple[float, bool]]) -> None:
        """Exports these figures of the crew, and no others. `figures`: budget → the part that is spent, and whether it
        is exhausted."""
        for budget in self._shown.pop(crew, set()) - figures.keys():
            for gauge in self._gauges:
                gauge.remove(*of_crew(crew), budget)
        for budget, values in figures.items():
            for gauge, value in zip(self._gauges, values, strict=True):
                gauge.labels(*of_crew(crew), budget).set(value)
        if figures:
            self._shown[crew] = set(figures)

    def remove(self, crew: str) -> None:
        self.show(crew, {})

    def clear(self) -> None:
        """Exports no crew until it is shown again."""
        for crew in list(self._shown):
            self.remove(crew)
