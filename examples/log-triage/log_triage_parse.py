"""Agent `parse`: reads a log into records, and folds those that say the same thing. No model, no I/O.

Joins each record with its traceback over many lines. What it can't read it counts, and shows a sample of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from log_triage_kinds import SERVER_ERROR, classify
from log_triage_lines import AGAIN, EXCEPTION, MESSAGE_CHARS, OPENS, Record, exception_of, guess_level, read_line

MAX_SHAPES = 2_000
"""Of a log with more different messages than this, the later ones are counted per level, as `(other messages)`."""
MAX_ROWS = 100_000
"""Above this, rows are folded over longer stretches of time, so that the output stays a few MB."""


_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def clean(text: str) -> str:
    """The text without a byte order mark and terminal colours; bytes that are not UTF-8 become question marks."""
    text = text.removeprefix("\ufeff").encode("utf-8", "replace").decode()
    return _COLOUR.sub("", text) if "\x1b" in text else text


@dataclass
class Reader:
    """Walks over the lines, joining each record with its traceback, and counts what belongs to none."""

    lines: int = 0
    unparsed: int = 0
    samples: list[str] = field(default_factory=list)

    def records(self, text: str) -> Iterator[Record]:
        current: Record | None = None
        trace: list[str] = []
        last_at: float | None = None
        for line in map(str.rstrip, clean(text).split("\n")):
            if not line:
                continue
            self.lines += 1
            if current is not None and self._continues(line, trace):
                trace.append(line)
                continue
            record = read_line(line) if not line[0].isspace() else None
            if record is None and line.startswith(OPENS[0]):
                record, opening = Record(last_at, "ERROR", "", "", guessed=True), [line]  # a crash, straight to stderr
            elif record is None:
                self.unparsed += 1
                if len(self.samples) < 3:
                    self.samples.append(line[:160])
                continue
            else:
                opening = []
            if current is not None:
                yield self._closed(current, trace)
            current, trace, last_at = record, opening, record.at or last_at
        if current is not None:
            yield self._closed(current, trace)

    @staticmethod
    def _continues(line: str, trace: list[str]) -> bool:
        if line[0].isspace() or line.startswith(AGAIN):
            return True
        # the exception itself stands right below its frames, at the margin
        below_frames = bool(trace) and (trace[-1][0].isspace() or trace[-1].startswith(OPENS[0]))
        return below_frames and bool(EXCEPTION.match(line))

    @staticmethod
    def _closed(record: Record, trace: list[str]) -> Record:
        if any(line.startswith(AGAIN) or line.lstrip().startswith(("at ", "File ")) for line in trace):
            record.cause = exception_of("\n".join(trace))
        elif trace:
            record.message += " " + trace[0].strip()
        record.message = (record.message or record.cause)[:MESSAGE_CHARS]
        if not record.level:
            record.guessed = record.status is None
            record.level = guess_level(record)
        return record


# ---- records that say the same thing

_MASKED = re.compile(
    r"""(?P<text>"[^"]*"|(?<!\w)'[^']*'(?!\w))
    |(?P<id>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    |(?P<addr>\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\b[\w.+-]+@[\w-]+\.[\w.]+\b)
    |(?P<hex>\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b)
    |(?P<dur>(?<![\w.])\d+(?:\.\d+)?\s?(?:ns|us|µs|ms|s|sec|seconds|min|m|h)\b)
    |(?P<n>(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?![\w]))
    |(?P<word>\b[A-Za-z_][A-Za-z_-]*\d[\w-]*|\b\d+[A-Za-z_][\w-]*)""",
    re.VERBOSE,
)


def template(message: str) -> str:
    """The message without what differs from one record to the next."""
    return _MASKED.sub(lambda m: "<id>" if m.lastgroup == "word" else f"<{m.lastgroup}>", message)


@dataclass
class Folded:
    """Shapes (what was said), and rows (when, how often, which shape)."""

    shapes: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    untimed: dict[int, int] = field(default_factory=dict)
    resolution: int = 1
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        shape = self._shape(record)
        if record.at is None:
            self.untimed[shape] = self.untimed.get(shape, 0) + 1
            return
        self._count(record.at, record.at, 1, shape)
        while len(self.rows) > MAX_ROWS:
            self.resolution *= 10
            rows, self.rows = self.rows, {}
            for first, last, count, known in rows.values():
                self._count(first, last, count, known)

    def _count(self, first: float, last: float, count: int, shape: int) -> None:
        row = self.rows.setdefault((int(first) // self.resolution, shape), [first, last, 0, shape])
        row[0], row[1], row[2] = min(row[0], first), max(row[1], last), row[2] + count

    def _shape(self, record: Record) -> int:
        kind = ""
        if record.level in ("WARNING", "ERROR", "CRITICAL") or record.cause:
            kind = classify(record.cause, record.message)
        elif record.status is not None and record.status >= 500:
            kind = SERVER_ERROR
        text = template(record.message)
        key = (record.level, record.component, text, kind, record.status)
        if key not in self._known and len(self.shapes) >= MAX_SHAPES:
            key = (record.level, "", "(other messages)", SERVER_ERROR if kind == SERVER_ERROR else "", None)
        if key not in self._known:
            self._known[key] = len(self.shapes)
            said = dict(zip(("level", "component", "template", "kind", "status"), key, strict=True))
            sample = f"{record.message} ({record.extra})" if record.extra else record.message
            self.shapes.append({**said, "sample": sample[:MESSAGE_CHARS], "cause": record.cause})
        return self._known[key]


def parse(text: str) -> dict[str, Any]:
    """The whole log as JSON-ready data of bounded size. Counts are exact; times within a row are its first and last."""
    reader, folded = Reader(), Folded()
    formats: dict[str, int] = {}
    records = guessed = 0
    for record in reader.records(text):
        folded.add(record)
        formats[record.format] = formats.get(record.format, 0) + 1
        records += 1
        guessed += record.guessed
    return {
        "lines": reader.lines,
        "records": records,
        "unparsed": reader.unparsed,
        "unparsed_samples": reader.samples,
        "guessed_levels": guessed,
        "formats": formats,
        "resolution_seconds": folded.resolution,
        "shapes": folded.shapes,
        "rows": sorted(folded.rows.values()),
        "untimed": sorted(folded.untimed.items()),
    }


class Parse:
    """The agent. `input` names the input that holds the log."""

    def __init__(self, input: str = "log") -> None:  # noqa: A002 -- the name users write under `config:`
        self.input = input

    def run(self, context: Any) -> dict[str, Any]:
        text = context.inputs.get(self.input)
        if text is None:
            raise ValueError(f"there is no input {self.input!r}. Give it with --input {self.input}=@FILE")
        parsed = parse(text)
        context.emit_sync(
            f"{parsed['lines']:,} lines: {parsed['records']:,} records in {len(parsed['shapes']):,} shapes, "
            f"{parsed['unparsed']:,} lines not understood"
        )
        return parsed
