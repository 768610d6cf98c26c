"""The few forms of PromQL that boards and alerts share, each with the reason for its form."""

from __future__ import annotations

from typing import Final

CREW: Final = "namespace, crew"
"""The labels that name a crew."""


def figure(metric: str, by: str = CREW) -> str:
    """A figure of the store. Every worker of a crew exports it, and so does the operator: they all say the same."""
    return f"max by ({by}) ({metric})"


def rate(counter: str, by: str = CREW, window: str = "$__rate_interval") -> str:
    """Counts per second of all processes together."""
    return f"sum by ({by}) (rate({counter}[{window}]))"


def new(counter: str, window: str, by: str = CREW) -> str:
    """The count of what all processes did within the window.

    `increase` does not see the first count of a series, which makes the series; so one that is younger than the window
    counts as a whole.
    """
    return f"sum by ({by}) (({counter} unless {counter} offset {window}) or increase({counter}[{window}]))"


def quantile(share: float, histogram: str, by: str, selector: str = "", window: str = "$__rate_interval") -> str:
    """The value that this share of all observations does not exceed."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({histogram}_bucket{selector}[{window}])))"


def mean(histogram: str, by: str, selector: str = "", window: str = "$__rate_interval") -> str:
    """The mean of all observations."""
    of = f"{selector}[{window}]"
    return f"sum by ({by}) (rate({histogram}_sum{of})) / sum by ({by}) (rate({histogram}_count{of}))"
