"""Draws `top`: crews as rows, or one crew in full, as tables that fit the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from watchbill.cli import output
from watchbill.store.figures import Figures, RunningTask, WorkerInfo
from watchbill.tasks import Priority
from watchbill.terminal import one_line

Cells = Sequence[str]
_ROOM_FOR_TWO: Final = 12
"""Lines below which only crews are shown, and not their deliveries."""
FIRST: Final = 32
"""Width up to which the first column is not cut before other columns are dropped."""


@dataclass(frozen=True, slots=True)
class Row:
    """A crew and its rates: tasks and steps per second since the reading before."""

    crew: str
    now: Figures
    done: float | None
    failed: float | None
    failing: tuple[str, ...] = ()
    """Destinations of its results to which nothing is sent now, because they fail."""

    @property
    def load(self) -> int:
        return self.now.waiting + self.now.running


@dataclass(frozen=True, slots=True)
class Shot:
    """One reading of the figures, the busiest crew first."""

    rows: tuple[Row, ...]
    workers: tuple[WorkerInfo, ...] | None = None
    """The workers of the crew, if a single one is shown in full."""
    longest: tuple[RunningTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Columns by their titles. `left`: left-aligned ones; `drop`: the order in which columns give way."""

    title: Cells
    left: frozenset[str]
    drop: Cells = ()

    def fitted(self, rows: Sequence[Cells], width: int) -> list[str]:
        """The title and the rows, each of at most `width` cells. In the first column … marks text that is cut."""
        widths = [max(cell_len(line[i]) for line in (self.title, *rows)) for i in range(len(self.title))]
        kept = list(range(len(self.title)))
        first = min(widths[0], FIRST)
        for name in self.drop:
            if first + sum(widths[i] + 2 for i in kept[1:]) <= width:
                break
            kept.remove(self.title.index(name))
        widths[0] = max(min(widths[0], width - sum(widths[i] + 2 for i in kept[1:])), 1)
        return [
            "  ".join(self._cell(line[i], widths[i], self.title[i]) for i in kept).rstrip()
            for line in (self.title, *rows)
        ]

    def _cell(self, text: str, width: int, column: str) -> str:
        if cell_len(text) > width:
            return set_cell_size(text, width - 1) + "…"
        space = " " * (width - cell_len(text))
        return text + space if column in self.left else space + text


CREWS: Final = Table(
    ("CREW", *("WAITING", "RUNNING", "PARKED", "DELAYED", "DEAD", "OLDEST", "WORKERS", "SLOTS", "DONE/S", "FAILED/S")),
    frozenset({"CREW"}),
    ("PARKED", "DELAYED", "SLOTS", "FAILED/S", "DEAD", "OLDEST", "WORKERS", "DONE/S", "RUNNING"),
)
CLASSES: Final = Table(("PRIORITY", "WAITING", "RUNNING", "OLDEST"), frozenset({"PRIORITY"}), ("OLDEST", "RUNNING"))
DELIVERIES: Final = Table(
    ("DELIVERIES", "WAITING", "SENDING", "RETRYING", "DEAD", "OLDEST", "FAILING"),
    frozenset({"DELIVERIES", "FAILING"}),
    ("OLDEST", "SENDING", "DEAD", "RETRYING"),
)
WORKERS: Final = Table(
    ("WORKER", "RUNNING", "SLOTS", "LEASE", "STATE"), frozenset({"WORKER", "STATE"}), ("LEASE", "SLOTS")
)
LONGEST: Final = Table(
    ("RUNNING LONGEST", "TIME", "AGENT", "PRIORITY", "ATTEMPT", "WORKER"),
    frozenset({"RUNNING LONGEST", "AGENT", "PRIORITY", "WORKER"}),
    ("PRIORITY", "WORKER", "ATTEMPT", "AGENT"),
)


def crew_cells(row: Row) -> Cells:
    now = row.now
    counts = (now.waiting, now.running, now.parked, now.delayed, now.dead)
    workers = f"{now.workers}" if not now.draining else f"{now.workers} ({now.draining} draining)"
    workers += " (suspended)" if now.suspended else ""
    slots = f"{now.running}/{now.slots}" if now.slots else "-"
    rates = (_rate(row.done), _rate(row.failed))
    return (one_line(row.crew), *map(str, counts), _age(now.oldest_ms), workers, slots, *rates)


def class_cells(now: Figures) -> list[Cells]:
    return [(c.name, str(c.waiting), str(c.running), _age(c.oldest_ms)) for c in now.classes]


def delivery_cells(rows: Sequence[Row]) -> list[Cells]:
    """The crews that have deliveries which are not made, or destinations that fail."""
    found: list[Cells] = []
    for row in rows:
        to = row.now.deliveries
        if to and (row.failing or to.waiting + to.running + to.delayed + to.dead):
            counts = (to.waiting, to.running, to.delayed, to.dead)
            failing = one_line(", ".join(row.failing)) or "-"
            found.append((one_line(row.crew), *map(str, counts), _age(to.oldest_ms), failing))
    return found


def worker_cells(workers: Sequence[WorkerInfo]) -> list[Cells]:
    return [
        (
            one_line(one.name),
            str(one.running),
            str(one.slots) if one.slots else "-",
            output.seconds(one.lease_ms / 1000) if one.lease_ms > 0 else "over",
            "silent" if one.lease_ms <= 0 else "draining" if one.draining else "works",
        )
        for one in workers
    ]


def longest_cells(longest: Sequence[RunningTask]) -> list[Cells]:
    return [
        (
            one_line(held.task_id),
            output.seconds(held.running_ms / 1000),
            one_line(held.agent),
            Priority(held.priority).name.lower(),
            str(held.attempt),
            one_line(held.incarnation),
        )
        for held in longest
    ]


def plain(shot: Shot) -> None:
    """Writes the reading on stdout, for people and for awk."""
    output.table(CREWS.title, [crew_cells(row) for row in shot.rows])
    for table, rows in _parts(shot):
        output.blank()
        output.table(table.title, rows)


def data(shot: Shot) -> Any:
    """The reading as values of JSON's types: a list of crews, or one crew."""
    rows = [
        {
            "crew": row.crew,
            **{k: v for k, v in dataclasses.asdict(row.now).items() if k not in ("now_ms", "ended")},
            "failing": row.failing,
            "done_per_second": row.done,
            "failed_per_second": row.failed,
        }
        for row in shot.rows
    ]
    if shot.workers is None:
        return rows
    return {
        **rows[0],
        "incarnations": [dataclasses.asdict(one) for one in shot.workers],
        "running_longest": [dataclasses.asdict(one) for one in shot.longest],
    }


def screen(title: str, trouble: str, shot: Shot | None, width: int, height: int) -> Text:
    """The screen, of at most `height` lines of `width` cells. `trouble`: the reason why the figures may be old."""
    lines = [(title, "bold"), (trouble or _totals(shot), "bold red" if trouble else "")]
    if shot is not None:
        lines.append(("", ""))
        room = height - len(lines)
        lines += _all_crews(shot, width, room) if shot.workers is None else _one_crew(shot, width, room)
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, (line, style) in enumerate(lines[:height]):
        text.append("\n" if number else "")
        text.append(set_cell_size(line, width), style)
    return text


def _all_crews(shot: Shot, width: int, room: int) -> list[tuple[str, str]]:
    cells = [crew_cells(row) for row in shot.rows]
    below = [(table, rows) for table, rows in _parts(shot) if room >= _ROOM_FOR_TWO]
    later = sum(min(len(rows) + 2, room // 3) for _, rows in below)
    lines = _block(CREWS, cells, width, room - later)
    for table, rows in below:
        lines += [("", ""), *_block(table, rows, width, room - len(lines) - 1)]
    return lines


def _one_crew(shot: Shot, width: int, room: int) -> list[tuple[str, str]]:
    lines = _block(CREWS, [crew_cells(shot.rows[0])], width, 2)
    parts = _parts(shot)
    for number, (table, rows) in enumerate(parts):
        left = room - len(lines) - 1
        if left < 2:
            break
        # what comes later is left a third of the room, or as much as it needs
        later = sum(min(len(r) + 2, room // 3) for _, r in parts[number + 1 :]) if number else 0
        lines += [("", ""), *_block(table, rows, width, max(left - later, 2))]
    return lines


def _parts(shot: Shot) -> list[tuple[Table, list[Cells]]]:
    deliveries = (DELIVERIES, delivery_cells(shot.rows))
    parts = [deliveries]
    if shot.workers is not None:
        of_crew = (WORKERS, worker_cells(shot.workers)), (LONGEST, longest_cells(shot.longest))
        parts = [(CLASSES, class_cells(shot.rows[0].now)), deliveries, *of_crew]
    return [(table, rows) for table, rows in parts if rows]


def _block(table: Table, rows: Sequence[Cells], width: int, room: int) -> list[tuple[str, str]]:
    """A title and its rows; the last line counts the rows that don't fit."""
    shown = rows if len(rows) < room else rows[: max(room - 2, 0)]
    title, *lines = table.fitted(shown, width)
    block = [(title.ljust(width), "reverse"), *((line, "") for line in lines)]
    return block if len(shown) == len(rows) else [*block, (f"… {len(rows) - len(shown):,} more", "dim")]


def _totals(shot: Shot | None) -> str:
    if shot is None:
        return "looking …"
    busy = sum(row.load > 0 for row in shot.rows)
    waiting, running = (sum(getattr(row.now, name) for row in shot.rows) for name in ("waiting", "running"))
    rates = [row.done for row in shot.rows if row.done is not None]
    parts = [
        f"{output.many(len(shot.rows), 'crew')}, {busy:,} with work",
        f"{waiting:,} waiting, {running:,} running",
        output.many(sum(row.now.workers for row in shot.rows), "worker"),
        f"{_rate(sum(rates) if rates else None)} done/s",
    ]
    return "   ".join(parts)


def _age(ms: int | None) -> str:
    return "-" if ms is None else output.seconds(ms / 1000)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
