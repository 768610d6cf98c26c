"""A board as text for a terminal: its questions and what is true now. May ask nobody itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from e2e.monitor.answers import Answer, number
from monitoring.panels import Board, Panel

MOST = 8
"""Series of one panel that are shown."""


def shown(board: Board, given: Iterable[Answer], about: str) -> RenderableType:
    """The board with its rows. `about`: what stands beside its title. Questions without data stand together below."""
    found = {answer.panel.title: answer for answer in given}
    parts: list[RenderableType] = [Text.assemble((board.title, "bold"), "  ", (about, "dim"))]
    for row in board.rows:
        told = [found[panel.title] for panel in row.panels if found[panel.title].series]
        if told:
            parts += [Text(f"\n{row.title}", style="bold cyan"), Padding(_table(told), (0, 0, 0, 2))]
    if silent := list(_silent(board, found)):
        parts += [
            Text("\nNothing is known of", style="dim"),
            Padding(Text("\n".join(silent), style="dim"), (0, 0, 0, 2)),
        ]
    return Group(*parts)


def _table(told: Iterable[Answer]) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(ratio=1, max_width=64)
    table.add_column(ratio=1)
    for answer in told:
        table.add_row(answer.panel.title, _values(answer))
    return table


def _values(answer: Answer) -> Text:
    text = Text()
    for name, series in answer.series[:MOST]:
        text.append(" · " if text else "")
        text.append(f"{name} " if name else "")
        # In a table of labels each line is what counts, and its value is always 1.
        if answer.panel.kind != "table":
            text.append(number(series.value, answer.panel.unit), style=_style(answer.panel, series.value))
    if more := len(answer.series) - MOST:
        text.append(f" · and {more} more" if more > 0 else "", style="dim")
    return text


def _style(panel: Panel, value: float) -> str:
    """Colors like Grafana's: orange from the first limit on, red from the last."""
    passed = [limit for limit in panel.limits if value >= limit]
    if not passed:
        return "bold"
    return "bold red" if passed[-1] == panel.limits[-1] else "bold yellow"


def _silent(board: Board, found: Mapping[str, Answer]) -> Iterator[str]:
    yield from (panel.title for panel in board.panels() if not found[panel.title].series)
