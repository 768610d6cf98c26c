"""The answers to a board's questions, and their names and values as people read them. May ask nobody itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from e2e.monitor.server import Series
from monitoring.panels import Board, Panel, Query
from watchbill.terminal import one_line, span

_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_THOUSANDS: Final = ("", "k", "M", "G", "T")
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


Ask = Callable[[str], list[Series]]


@dataclass(frozen=True)
class Chosen:
    """The choices above a board. Where several values of a variable can be chosen, all count."""

    namespace: str
    crew: str
    window: str
    """The time over which rates are taken, as 30s."""


@dataclass(frozen=True)
class Answer:
    """The answer to one panel's question."""

    panel: Panel
    series: Sequence[tuple[str, Series]]
    """Each with its name; none: there are no data."""


def answer(board: Board, panel: Panel, chosen: Chosen, ask: Ask) -> Answer:
    """Asks for one panel of the board. `ask`: takes a query, and gives its series."""
    found = [(query, ask(filled(board, query.expr, chosen))) for query in panel.queries]
    return Answer(panel, [(named(query, one.labels), one) for query, series in found for one in series])


def filled(board: Board, expr: str, chosen: Chosen) -> str:
    """Returns the query as Prometheus gets it."""
    values = {"namespace": chosen.namespace, "crew": chosen.crew}
    for variable in board.variables:
        if variable.many:
            expr = expr.replace(f'=~"${variable.name}"', '=~".*"')
        else:
            expr = expr.replace(f'"${variable.name}"', json.dumps(values[variable.name]))
    return expr.replace("$__rate_interval", chosen.window)


def named(query: Query, labels: Mapping[str, str]) -> str:
    """The name of a series: its query's legend, or its labels where that has none."""
    if query.legend:
        return one_line(_LABEL.sub(lambda found: labels.get(found[1], ""), query.legend))
    return one_line(" ".join(f"{value}" for value in labels.values()))


def number(value: float, unit: str) -> str:
    """The value as people read it. `unit`: as Panel has it."""
    match unit:
        case "s" if value >= 60:
            return span(value)
        case "s":
            return f"{_brief(value * 1000)} ms" if value < 1 else f"{_brief(value)} s"
        case "percentunit":
            return f"{_brief(value * 100)} %"
        case "bytes":
            return _scaled(value, 1024, _BYTES, " ")
        case "reqps":
            return f"{_scaled(value, 1000, _THOUSANDS)}/s"
        case _:
            return _scaled(value, 1000, _THOUSANDS)


def _scaled(value: float, base: int, units: Sequence[str], space: str = "") -> str:
    place = 0
    while abs(value) >= base and place < len(units) - 1:
        value, place = value / base, place + 1
    return f"{_brief(value)}{space}{units[place]}"


def _brief(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return f"{value:.1g}" if text in {"0", "-0"} and value else text
