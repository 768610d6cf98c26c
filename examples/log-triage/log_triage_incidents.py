"""Finds the incidents in a log: when failures stood far above the usual, what came first, what else changed.

Pure arithmetic over counts and times: the same log gives the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from log_triage_kinds import SERVER_ERROR, depth

WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 8 * 3600, 24 * 3600)
"""Seconds per bucket; the finest that needs at most 120 of them for the whole log."""
MIN_RECORDS = 5
"""Fewer failures than this are no incident, however close together."""
MOST_OF_IT = 0.8
"""What fills more of the log than this share is its usual state, and there is nothing to compare it with."""
MAX_INCIDENTS = 5
"""Those with the highest peaks are kept."""
SAMPLE_CHARS = 240

Row = tuple[float, float, int]  # first and last (s since the epoch), how many


@dataclass
class Group:
    """All records of one shape, in order of time."""

    shape: dict[str, Any]
    rows: list[Row]
    untimed: int

    @property
    def count(self) -> int:
        return self.untimed + sum(row[2] for row in self.rows)

    @property
    def failed(self) -> bool:
        """An error, or a request answered 5xx: what an incident is made of."""
        return self.shape["level"] in ("ERROR", "CRITICAL") or self.shape["kind"] == SERVER_ERROR

    @property
    def troubled(self) -> bool:
        return self.failed or self.shape["level"] == "WARNING"

    def within(self, start: float, end: float) -> int:
        return sum(count for first, _, count in self.rows if start <= first <= end)


@dataclass
class Window:
    """A stretch of time, in seconds since the epoch, in which failures were far above what is usual for this log."""

    start: float
    end: float
    peak_at: float = 0.0
    peak: int = 0
    peak_of: str = "failure"
    ongoing: bool = False

    def holds(self, at: float) -> bool:
        return self.start <= at <= self.end


# ---- when


def bucket_width(span: float) -> int:
    return next((width for width in WIDTHS if span / width <= 120), WIDTHS[-1])


def usual_count(counts: list[int]) -> float:
    """Failures per bucket as they usually are: the mean, without the buckets that stand out.

    Begins with the lower quartile, so that an incident may fill most of the log; a mean over chance alone grows from
    there until it holds nearly all buckets.
    """
    usual = float(sorted(counts)[len(counts) // 4]) if len(counts) >= 4 else 0.0
    for _ in range(10):
        calm = [count for count in counts if count <= ceiling(usual)] or [0]
        usual, before = sum(calm) / len(calm), usual
        if usual == before:
            break
    return usual


def ceiling(usual: float) -> float:
    """What failures that come by chance, at this rate, practically never exceed (Poisson, 4 standard deviations)."""
    return usual + 4 * math.sqrt(usual) + 2


def bursts(rows: Iterable[Row], first: float, last: float, of: str = "failure") -> list[Window]:
    """Where the rate stands far above what is usual in this log. In one that fails from end to end, nowhere."""
    width = bucket_width(last - first)
    first = first // width * width  # so that a reader can count a bucket with grep
    counts = [0] * (int((last - first) // width) + 1)
    for at, _, count in rows:
        counts[int((at - first) // width)] += count
    usual = usual_count(counts)
    hot = [i for i, count in enumerate(counts) if count > ceiling(usual)]
    runs: list[list[int]] = [[i, i] for i in hot[:1]]
    for before, i in pairwise(hot):
        if i - before <= 3:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    windows = []
    for lo, hi in runs:
        inside = counts[lo : hi + 1]
        if sum(inside) >= MIN_RECORDS:
            peak = max(range(lo, hi + 1), key=lambda i: (counts[i], -i))
            end = first + (hi + 1) * width
            windows.append(Window(first + lo * width, end, first + peak * width, counts[peak], of, end > last))
    if sum(window.end - window.start for window in windows) > MOST_OF_IT * len(counts) * width:
        return []
    return sorted(sorted(windows, key=lambda w: -w.peak)[:MAX_INCIDENTS], key=lambda w: w.start)


def sharpen(windows: list[Window], groups: list[Group], width: int) -> None:
    """Moves start and end of each window to the first and last record of what is peculiar to it.

    Both to whole seconds, inclusive, as rows are folded: so a reader can count the same with grep.
    """
    for i, window in enumerate(windows):
        back = max(windows[i - 1].end if i else -math.inf, window.start - max(30, 4 * width))
        ahead = min(windows[i + 1].start if i + 1 < len(windows) else math.inf, window.end + 2 * width)
        peculiar = [
            group
            for group in groups
            if group.troubled and group.within(back, ahead) >= 2 and not _seen_outside(group, windows, back, ahead)
        ]
        if not peculiar:  # only more of what is always there: as exact as the buckets are
            back, ahead, peculiar = window.start, window.end, [group for group in groups if group.troubled]
        rows = [row for group in peculiar for row in group.rows if back <= row[0] <= ahead]
        window.start = math.floor(min(row[0] for row in rows))
        window.end = math.floor(max(row[1] for row in rows)) + 0.999


def _seen_outside(group: Group, windows: list[Window], back: float, ahead: float) -> bool:
    return any(not back <= first <= ahead and not any(w.holds(first) for w in windows) for first, _, _ in group.rows)


# ---- what


@dataclass(frozen=True)
class Log:
    """What every question below is asked of."""

    groups: list[Group]
    windows: list[Window]
    first: float
    last: float
    width: int

    def inside(self, group: Group) -> int:
        return sum(group.within(window.start, window.end) for window in self.windows)

    @property
    def seconds_inside(self) -> float:
        return sum(max(window.end - window.start, 1.0) for window in self.windows)


def pattern(log: Log, group: Group) -> tuple[str, float | None]:
    """How a group relates to the incidents: `only` in them, `surged` (and by what factor), `steady`, or `once`."""
    if not log.windows:
        return ("once" if group.count == 1 else "steady"), None
    inside = log.inside(group)
    outside = group.count - group.untimed - inside
    if not inside or (group.count < 3 and not group.shape["kind"]):
        return ("once" if group.count == 1 else "steady"), None
    if not outside:
        return "only", None
    factor = (inside / log.seconds_inside) / (outside / max(log.last - log.first - log.seconds_inside, 1.0))
    return ("surged", round(factor, 1)) if factor >= 3 and inside >= 3 else ("steady", round(factor, 1))


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


# ---- one incident


def kinds_of(log: Log, window: Window) -> list[dict[str, Any]]:
    """The kinds of failure in one incident, by when they began; of two that began together, the deeper cause first."""
    found: dict[str, list[Group]] = {}
    for group in log.groups:
        if group.troubled and group.within(window.start, window.end) and pattern(log, group)[0] in ("only", "surged"):
            name = group.shape["kind"] or f"{group.shape['level']}: {group.shape['template']}"
            found.setdefault(name, []).append(group)
    kinds: list[tuple[float, dict[str, Any]]] = []
    for name, groups in found.items():
        rows = sorted(row for group in groups for row in group.rows if window.holds(row[0]))
        one = min(groups, key=lambda g: next(row for row in g.rows if window.holds(row[0])))
        began = rows[0][0] + depth(name) * 0.3  # what begins together is one event: the deeper cause goes first
        kinds.append(
            (
                began,
                {
                    "kind": name[:SAMPLE_CHARS],
                    "named": bool(groups[0].shape["kind"]),
                    "count": sum(row[2] for row in rows),
                    "before": sum(group.within(-math.inf, window.start - 0.001) for group in groups),
                    "first": stamp(rows[0][0]),
                    "last": stamp(rows[-1][1]),
                    "seconds_after_onset": int(rows[0][0] - window.start),
                    "components": sorted({g.shape["component"] for g in groups if g.shape["component"]}),
                    "first_component": one.shape["component"],
                    "first_sample": (one.shape["cause"] or one.shape["sample"])[:SAMPLE_CHARS],
                },
            )
        )
    return [kind for _, kind in sorted(kinds, key=lambda pair: pair[0])]


def newcomers(log: Log, start: float, end: float, wanted: Callable[[Group], bool]) -> list[dict[str, Any]]:
    """Messages said for the first time in this stretch, in order: what changed, seen from the log."""
    found = [g for g in log.groups if g.rows and start <= g.rows[0][0] <= end and wanted(g)]
    found.sort(key=lambda g: g.rows[0][0])
    return [
        {
            "at": stamp(group.rows[0][0]),
            "component": group.shape["component"],
            "said": group.shape["sample"][:SAMPLE_CHARS],
            "count": group.count,
        }
        for group in found[:5]
    ]


def requests(log: Log, start: float, end: float) -> dict[str, int]:
    """Requests whose answer is in the log: how many, and how many of them were answered 5xx."""
    answered = [g for g in log.groups if g.shape["status"] is not None]
    return {
        "answered": sum(g.within(start, end) for g in answered),
        "failed": sum(g.within(start, end) for g in answered if g.shape["status"] >= 500),
    }


def dried_up(log: Log, window: Window) -> list[dict[str, Any]]:
    """What normally happens all the time, and happened at less than half its rate during the incident."""
    before_s, during_s = window.start - log.first, max(window.end - window.start, 1.0)
    found = []
    for group in log.groups:
        before, during = group.within(-math.inf, window.start - 0.001), group.within(window.start, window.end)
        if group.troubled or before < 20 or before / before_s * during_s < 10:
            continue
        if group.rows[0][0] > log.first + before_s / 2:  # too new to be what normally happens
            continue
        share = (during / during_s) / (before / before_s)
        if share < 0.5:
            found.append(
                {
                    "component": group.shape["component"],
                    "template": group.shape["template"][:SAMPLE_CHARS],
                    "per_minute_before": round(60 * before / before_s, 1),
                    "per_minute_during": round(60 * during / during_s, 1),
                }
            )
    return sorted(found, key=lambda f: -f["per_minute_before"])[:3]


def incident(log: Log, window: Window) -> dict[str, Any]:
    """One incident: when, what, in which order, what preceded and what ended it, and whom it hit."""
    quiet = window.start - log.first
    back = window.start - min(max(60, 10 * log.width), quiet / 2)
    margin = max(5, log.width)

    def count(*levels: str) -> int:
        return sum(g.within(window.start, window.end) for g in log.groups if g.shape["level"] in levels)

    def plain(group: Group) -> bool:
        return group.shape["status"] is None

    ending: list[dict[str, Any]] = []
    if not window.ongoing:
        ending = newcomers(log, window.end - margin, window.end + margin, lambda g: not g.failed and plain(g))
    return {
        "onset": stamp(window.start),
        "peak": stamp(window.peak_at),
        "peak_count": window.peak,
        "peak_of": window.peak_of,
        "end": stamp(window.end),
        "seconds": int(window.end - window.start),
        "ongoing": window.ongoing,
        "errors": count("ERROR", "CRITICAL"),
        "warnings": count("WARNING"),
        "kinds": kinds_of(log, window)[:8],
        "new_before": newcomers(log, back, window.start, lambda g: not g.troubled and plain(g)),
        "new_at_end": ending,
        "dried_up": dried_up(log, window),
        "requests": {
            "before": requests(log, -math.inf, window.start - 0.001),
            "during": requests(log, window.start, window.end),
            "after": requests(log, window.end + 0.001, math.inf),
        },
    }
