"""Boards as pictures: what a Prometheus has recorded, drawn as SVG, panel by panel where Grafana has them.

For the docs, where there is no Grafana. The same questions, units, limits and colors of limits; no more of Grafana than
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import Final

from e2e.monitor.answers import Answer, number
from e2e.monitor.server import Series
from monitoring import panels
from monitoring.panels import Board, Panel

COLUMN, UNIT = 50, 30
"""Pixels of Grafana's columns and of its unit of height."""
GAP: Final = 6
TITLE, LINE = 22, 15
"""Heights of a title and of a line of a legend."""
LEFT: Final = 52
"""Room for the numbers beside a chart."""
LETTER: Final = 6.2
"""Width of a letter, about."""
TITLE_LETTER: Final = 7.9
"""Width of a letter of a title in the widest of common fonts, about."""
LEGEND: Final = 4
"""Lines of a legend."""
COLORS: Final = (
    "#3b7dd8",
    "#e8833a",
    "#3f9c5a",
    "#c94f4f",
    "#8b63c7",
    "#2aa3a3",
    "#b8860b",
    "#d0619e",
    "#5b6770",
    "#7aa63c",
)
LIMITS: Final = ("#f2a33a", "#d64545")
"""Colors from the first limit of two on, and from the last."""
GOOD: Final = "#2e8b57"

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Scale:
    """The time of a chart and the greatest value, and the box in which both are drawn."""

    box: Box
    start: float
    end: float
    top: float

    def place(self, time: float, value: float) -> str:
        x = self.box.x + (time - self.start) / (self.end - self.start) * self.box.w
        return f"{x:.0f},{self.height(value):.0f}"

    def height(self, value: float) -> float:
        return self.box.y + self.box.h - value / self.top * self.box.h


def drawn(board: Board, given: Mapping[str, Answer], start: float, end: float) -> str:
    """Returns the board as SVG. `given`: the answer to each panel by its title, from `start` to `end` in seconds since
    1970; stats and tables show what was true at the end."""
    parts, bottom = [], 0.0
    for one in panels.render(board, "")["panels"]:
        at = one["gridPos"]
        box = Box(at["x"] * COLUMN, at["y"] * UNIT, at["w"] * COLUMN, at["h"] * UNIT)
        bottom = max(bottom, box.y + box.h)
        if one["type"] == "row":
            parts.append(_text(box.x + GAP, box.y + 21, one["title"], size=16, weight="bold"))
        else:
            parts.append("".join(_panel(given[one["title"]], box, start, end)))
    size = f"{panels.WIDTH * COLUMN} {bottom:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="11" fill="#24292f"><title>{escape(board.title)}</title>'
        f'<rect width="100%" height="100%" fill="#f6f8fa"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(answer: Answer, box: Box, start: float, end: float) -> Iterator[str]:
    frame = Box(box.x + GAP / 2, box.y + GAP / 2, box.w - GAP, box.h - GAP)
    yield (
        f'<rect x="{frame.x:g}" y="{frame.y:g}" width="{frame.w:g}" height="{frame.h:g}" rx="4" fill="#fff" '
        'stroke="#d0d7de"/>'
    )
    yield _text(frame.x + 8, frame.y + 17, answer.panel.title, size=12, weight="bold", room=frame.w - 16)
    inner = Box(frame.x + 8, frame.y + TITLE + 4, frame.w - 16, frame.h - TITLE - 10)
    if not answer.series:
        yield _text(inner.x, inner.y + 14, "no data", fill="#6e7781")
    elif answer.panel.kind == "stat":
        yield from _stat(answer, inner)
    elif answer.panel.kind == "table":
        yield from _table(answer, inner)
    else:
        yield from _chart(answer, inner, start, end)


def _stat(answer: Answer, box: Box) -> Iterator[str]:
    each = box.w / len(answer.series)
    for place, (name, series) in enumerate(answer.series):
        x = box.x + place * each
        said = number(series.value, answer.panel.unit)
        yield _text(x, box.y + 46, said, size=36, weight="bold", fill=_fill(answer.panel, series.value))
        yield _text(x, box.y + 66, _cut(name, each), fill="#57606a")


def _table(answer: Answer, box: Box) -> Iterator[str]:
    lines = int(box.h / LINE)
    for place, (name, _) in enumerate(sorted(answer.series, key=lambda one: one[0])[:lines]):
        yield _text(box.x, box.y + 12 + place * LINE, _cut(name, box.w))


def _fill(panel: Panel, value: float) -> str:
    colors = LIMITS[-len(panel.limits) :] if panel.limits else ()
    passed = [color for limit, color in zip(panel.limits, colors, strict=True) if value >= limit]
    return passed[-1] if passed else GOOD


# ------------------------------------------------------------------------------------------------------------- charts


def _chart(answer: Answer, box: Box, start: float, end: float) -> Iterator[str]:
    series = sorted(answer.series, key=lambda one: -max(value for _, value in one[1].points))[: len(COLORS)]
    lines = min(len(series), LEGEND)
    stacked = _stacked([one for _, one in series]) if answer.panel.stacked else [list(one.points) for _, one in series]
    greatest = max((value for points in stacked for _, value in points), default=0.0)
    room = Box(box.x + LEFT, box.y, box.w - LEFT, box.h - 16 - (lines + 0.4) * LINE)
    scale = Scale(room, start, end, _round(max(greatest, 1e-9)) if greatest else 1.0)
    yield from _grid(scale, answer.panel)
    for place in reversed(range(len(series))):
        yield from _line(scale, stacked[place], COLORS[place], filled=answer.panel.stacked)
    for place, (name, one) in enumerate(series[:lines]):
        y = room.y + room.h + 20 + (place + 0.8) * LINE
        more = f"  (and {len(answer.series) - lines} more)" if place == lines - 1 and len(answer.series) > lines else ""
        said = number(one.value, answer.panel.unit)
        yield f'<rect x="{box.x:g}" y="{y - 8:g}" width="9" height="9" fill="{COLORS[place]}"/>'
        yield _text(box.x + 14, y, _cut(name, box.w - 24 - (len(said) + len(more)) * LETTER) + more)
        yield _text(box.x + box.w, y, said, anchor="end", fill="#57606a")


def _grid(scale: Scale, panel: Panel) -> Iterator[str]:
    box = scale.box
    for share in (0.0, 0.5, 1.0):
        y = scale.height(scale.top * share)
        yield f'<path d="M{box.x:g},{y:.0f}h{box.w:g}" stroke="#eaeef2"/>'
        yield _text(box.x - 5, y + 4, number(scale.top * share, panel.unit), anchor="end", fill="#57606a")
    seconds = floor(scale.end - scale.start)
    for second in range(0, seconds + 1, 30 * max(1, ceil(seconds / 120))):
        place = scale.place(scale.start + second, 0).partition(",")[0]
        said = f"{second // 60}:{second % 60:02}"
        yield _text(float(place), box.y + box.h + 14, said, anchor="middle", fill="#57606a")
    colors = LIMITS[-len(panel.limits) :] if panel.limits else ()
    for limit, color in zip(panel.limits, colors, strict=True):
        if limit <= scale.top:
            yield f'<path d="M{box.x:g},{scale.height(limit):.0f}h{box.w:g}" stroke="{color}" stroke-dasharray="5 4"/>'


def _line(scale: Scale, points: Sequence[Point], color: str, *, filled: bool) -> Iterator[str]:
    for part in _unbroken(points):
        line = "L".join(scale.place(time, value) for time, value in part)
        if filled:
            first, last = scale.place(part[0][0], 0), scale.place(part[-1][0], 0)
            yield f'<path d="M{first}L{line}L{last}Z" fill="{color}"/>'
        elif len(part) == 1:
            x, _, y = scale.place(*part[0]).partition(",")
            yield f'<circle cx="{x}" cy="{y}" r="2" fill="{color}"/>'
        else:
            yield f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="1.6"/>'


def _unbroken(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """The parts of a series between which there is nothing."""
    if len(points) < 3:
        yield points
        return
    step = min(after[0] - before[0] for before, after in pairwise(points))
    begin = 0
    for place in range(1, len(points)):
        if points[place][0] - points[place - 1][0] > 1.5 * step:
            yield points[begin:place]
            begin = place
    yield points[begin:]


def _stacked(series: Sequence[Series]) -> list[list[Point]]:
    """Each on top of those before it, which count as 0 where they have no value."""
    times = sorted({time for one in series for time, _ in one.points})
    heights, found = dict.fromkeys(times, 0.0), []
    for one in series:
        values = dict(one.points)
        heights = {time: heights[time] + values.get(time, 0.0) for time in times}
        found.append(list(heights.items()))
    return found


def _round(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)


# --------------------------------------------------------------------------------------------------------------- text


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    weight: str = "",
    fill: str = "",
    anchor: str = "",
    room: float | None = None,
) -> str:
    """`room`: a title that may be wider than this, in pixels, is made as wide, whatever font there is."""
    more = {"font-size": size if size != 11 else "", "font-weight": weight, "fill": fill, "text-anchor": anchor}
    if room is not None and len(text) * TITLE_LETTER > room:
        more |= {"textLength": f"{room:g}", "lengthAdjust": "spacingAndGlyphs"}
    attributes = "".join(f' {name}="{value}"' for name, value in more.items() if value)
    return f'<text x="{x:g}" y="{y:.0f}"{attributes}>{escape(text)}</text>'


def _cut(text: str, width: float) -> str:
    letters = max(int(width / LETTER), 1)
    return text if len(text) <= letters else text[: letters - 1] + "…"
