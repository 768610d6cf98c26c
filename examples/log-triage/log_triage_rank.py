"""Agent `rank`: orders the groups of records by how much they matter, and puts the findings together.

What it returns is small whatever the size of the log, because it is also what a model is sent when the report is
written by one.
"""

from __future__ import annotations

import math
import re
from typing import Any

from log_triage_incidents import (
    SAMPLE_CHARS,
    Group,
    Log,
    Row,
    bucket_width,
    bursts,
    incident,
    pattern,
    sharpen,
    stamp,
)
from log_triage_kinds import SERVER_ERROR

WEIGHTS = {"CRITICAL": 8.0, "ERROR": 5.0, "WARNING": 2.0}


def summary(log: Log, group: Group) -> dict[str, Any]:
    """A group as the report, or a model, reads it."""
    how, factor = pattern(log, group)
    shape, inside = group.shape, log.inside(group)
    counted = inside if how in ("only", "surged") else group.count
    weight = WEIGHTS.get(shape["level"], 1.5 if group.failed else 0.0)
    sample = shape["sample"]
    if shape["cause"] and shape["cause"] not in sample:
        sample = f"{sample} -- {shape['cause']}"
    return {
        "level": shape["level"] if shape["kind"] != SERVER_ERROR else f"{shape['level']} ({shape['status']})",
        "component": shape["component"],
        "count": group.count,
        "in_incidents": inside,
        "pattern": how,
        "factor": factor,
        "per_minute": round(60 * group.count / max(log.last - log.first, 1.0), 2) if group.rows else None,
        "first": stamp(group.rows[0][0]) if group.rows else None,
        "last": stamp(group.rows[-1][1]) if group.rows else None,
        "kind": shape["kind"],
        "template": shape["template"][:SAMPLE_CHARS],
        "sample": sample[:SAMPLE_CHARS],
        "score": round(weight * math.log2(1 + counted), 1),
    }


# ---- what was asked for

_LEVEL_WORDS = {"warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"}
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "what which when where broke broken happened wrong failed fail failing failure failures error errors warning "
        "warnings should could would there their they this that with from have been were does first last look into "
        "about open many requests process files lost show tell need only most more after before during between some",
    )
)


def focus(question: str, groups: list[Group]) -> dict[str, list[str]]:
    """What the question names: components, levels, kinds of failure, and words that only some messages contain."""
    raw = re.findall(r"[a-z0-9][a-z0-9_.-]*", question.lower())
    words = {form for word in raw for form in (word.rstrip("."), word.rstrip(".").rstrip("s"))}
    telling = {word for word in words if len(word) >= 4 and word not in _EMPTY_WORDS}
    troubled = [group for group in groups if group.troubled]
    components = {g.shape["component"] for g in groups if g.shape["component"]}
    named = {c for c in components if words & {c.lower(), *re.split(r"[./:-]", c.lower())}}
    said = {word: sum(word in _words(g) for g in troubled) for word in telling}
    return {
        "components": sorted(named) if len(named) < len(components) else [],
        "levels": sorted({_LEVEL_WORDS[word] for word in words & _LEVEL_WORDS.keys()}),
        "kinds": sorted({g.shape["kind"] for g in troubled if telling & set(g.shape["kind"].lower().split())}),
        "words": sorted(word for word, count in said.items() if 0 < count <= max(1, len(troubled) // 2)),
    }


def _words(group: Group) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", group.shape["template"].lower()))


def concerns(asked: dict[str, list[str]], group: Group) -> bool:
    """Whether a group is among what the question names."""
    return (
        group.shape["component"] in asked["components"]
        or group.shape["level"] in asked["levels"]
        or group.shape["kind"] in asked["kinds"]
        or not _words(group).isdisjoint(asked["words"])
    )


# ---- all of it

_COVERAGE = ("lines", "records", "unparsed", "unparsed_samples", "guessed_levels", "formats")


def rank(parsed: dict[str, Any], question: str = "", top: int = 12) -> dict[str, Any]:
    """Incidents and ranked groups; `noise` are groups that go on whether there is an incident or not."""
    untimed = dict(parsed["untimed"])
    rows: dict[int, list[Row]] = {}
    for first, last, count, shape in parsed["rows"]:
        rows.setdefault(shape, []).append((first, last, count))
    groups = [Group(shape, rows.get(i, []), untimed.get(i, 0)) for i, shape in enumerate(parsed["shapes"])]
    timed = [row for group in groups for row in group.rows]
    first, last = (min(r[0] for r in timed), max(r[1] for r in timed)) if timed else (0.0, 0.0)
    width = bucket_width(last - first)

    failures = [row for group in groups if group.failed for row in group.rows]
    warnings = [row for group in groups if group.troubled for row in group.rows]
    windows = (bursts(failures, first, last) or bursts(warnings, first, last, "warning")) if timed else []
    sharpen(windows, groups, width)
    log = Log(groups, windows, first, last, width)

    asked = focus(question, groups)
    summaries = sorted(
        ((summary(log, group), group) for group in groups if group.troubled),
        key=lambda pair: (-pair[0]["score"], pair[0]["first"] or "", pair[0]["template"]),
    )
    loud = [s for s, _ in summaries if not windows or s["pattern"] in ("only", "surged")]
    about = [s for s, g in summaries if concerns(asked, g)]
    incidents = [incident(log, window) for window in windows]
    told = {said["said"] for one in incidents for said in one["new_at_end"]}
    noise = [s for s, _ in summaries if windows and s["pattern"] not in ("only", "surged") and s["sample"] not in told]
    levels: dict[str, int] = {}
    for group in groups:
        levels[group.shape["level"]] = levels.get(group.shape["level"], 0) + group.count
    return {
        "question": question,
        "log": {
            **{key: parsed[key] for key in _COVERAGE},
            "untimed": sum(untimed.values()),
            "first": stamp(first) if timed else None,
            "last": stamp(last) if timed else None,
            "seconds": round(last - first, 1),
            "levels": dict(sorted(levels.items())),
            "answered_5xx": sum(g.count for g in groups if g.shape["kind"] == SERVER_ERROR),
            "bucket_seconds": width,
        },
        "incidents": incidents,
        "groups": loud[:top],
        "groups_left_out": max(0, len(loud) - top),
        "noise": noise[:top],
        "asked": {**asked, "groups": about[:top], "count": sum(s["count"] for s in about)},
    }


class Rank:
    """The agent. Its prompt is the question; the records come from `parse`. `top`: how many groups it keeps."""

    def __init__(self, top: int = 12) -> None:
        self.top = top

    def run(self, context: Any) -> dict[str, Any]:
        ranked = rank(context.outputs["parse"], context.prompt, self.top)
        context.emit_sync(f"{len(ranked['incidents'])} incidents, {len(ranked['groups'])} groups that matter")
        return ranked
