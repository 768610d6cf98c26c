"""Metrics of requests to models that an agent makes in a process of its own: its worker counts them, which has a page.

Used at both ends of the line. Imports no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill import metrics

_FORWARDED: Final = ("MODEL_REQUESTS", "MODEL_TOKENS", "MODEL_COST", "MODEL_TIME", "MODEL_FIRST_TIME")

Tell = Callable[[Mapping[str, Any]], None]


def forward(tell: Tell) -> None:
    """From now on, what this process counts in these metrics is told, and not kept here."""
    for name in _FORWARDED:
        setattr(metrics, name, _Forwarded(tell, name))


def count(told: Mapping[str, Any]) -> None:
    """Counts what such a process has told."""
    metric = getattr(metrics, told["name"]).labels(*told["labels"])
    (metric.inc if told["how"] == "inc" else metric.observe)(told["value"])


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """A metric in the eyes of who counts, as prometheus_client has it."""

    tell: Tell
    name: str
    of: tuple[str, ...] = ()

    def labels(self, *values: str) -> _Forwarded:
        return _Forwarded(self.tell, self.name, values)

    def inc(self, amount: float = 1) -> None:
        self._told("inc", amount)

    def observe(self, amount: float) -> None:
        self._told("observe", amount)

    def _told(self, how: str, value: float) -> None:
        self.tell({"kind": "metric", "name": self.name, "labels": self.of, "how": how, "value": value})
