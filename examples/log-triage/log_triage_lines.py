"""Reads one line of a log: plain text with a time, JSON, or logfmt. No I/O.

Knows ISO, Go, syslog, klog and Redis times and access logs. What it can't read is None, never a guess; a time
without a zone is read as UTC.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MESSAGE_CHARS = 400
COMPONENT_CHARS = 80
UNKNOWN_YEAR = 1972
"""The year of times that have none (syslog); a leap year, and too far off to be mistaken for a real one."""

_LEVELS = {
    **dict.fromkeys(("trace", "verbose", "debug", "dbg", "d"), "DEBUG"),
    **dict.fromkeys(("info", "information", "notice", "note", "inf", "i"), "INFO"),
    **dict.fromkeys(("warn", "warning", "wrn", "w"), "WARNING"),
    **dict.fromkeys(("error", "err", "severe", "e"), "ERROR"),
    **dict.fromkeys(("critical", "crit", "fatal", "alert", "emerg", "emergency", "panic", "f"), "CRITICAL"),
}
_WORD = "|".join(sorted((w for w in _LEVELS if len(w) > 1), key=len, reverse=True))
_MONTHS = {"JanFebMarAprMayJunJulAugSepOctNovDec"[i : i + 3]: i // 3 + 1 for i in range(0, 36, 3)}


@dataclass(slots=True)
class Record:
    """One entry of a log. `at` in seconds since the epoch; `cause` is the exception its traceback ends with."""

    at: float | None
    level: str
    component: str
    message: str
    cause: str = ""
    status: int | None = None
    extra: str = ""
    format: str = "text"
    guessed: bool = False


# ---- times

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:[.,]\d+)?) ?(Z|UTC|[+-]\d\d:?\d\d)?(?=\W|$)")
_SLASHED = re.compile(r"(\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)")
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d:\d\d:\d\d)(?=\s)")
_REDIS = re.compile(r"\d+:[A-Z] (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d:\d\d:\d\d\.\d+) ([.\-*#]) (.*)")
_KLOG = re.compile(r"([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d+)\s+\d+ ([\w.-]+):\d+\] (.*)")
_ACCESS = re.compile(r'\S+ \S+ \S+ \[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d{4})\] (".*)')
_REDIS_LEVELS = {".": "DEBUG", "-": "DEBUG", "*": "INFO", "#": "WARNING"}


def _at(date: str, clock: str, zone: str | None = None) -> float | None:
    """Seconds since the epoch, or None for something that only looks like a time."""
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}")
        if zone and zone not in ("Z", "UTC"):
            moment = datetime.fromisoformat(f"{date}T{clock}{zone}")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _named_month(year: int | str, month: str, day: str, clock: str, zone: str | None = None) -> float | None:
    return _at(f"{year}-{_MONTHS.get(month, 0):02}-{int(day):02}", clock, zone)


def _time_of(value: Any) -> float | None:
    """A time as structured logs write it: text, or a number of s, ms, µs or ns."""
    if isinstance(value, str):
        if match := _ISO.match(value):
            return _at(*match.groups())
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or not 1e8 < value < 1e20:
        return None
    while value > 1e11:  # s until the year 5138; ms, µs and ns are always larger
        value /= 1000
    return float(value)


# ---- one line

_COMPOSE = re.compile(r"([A-Za-z][\w.-]*)\s+\| (?=\S)")
_LEADING_LEVEL = re.compile(rf"[\[<(]?({_WORD})[\]>)]?(?=[\s:\]|]|$)[\s:|-]*", re.IGNORECASE)
_NEAR_LEVEL = re.compile(rf"(?<![\w./-])\[?({_WORD.upper()})\]?(?![\w./-])[\s:|-]*")
_BRACKETED = re.compile(r"\[([A-Za-z][\w./:-]*)\]\s*[:-]?\s*")
_NAMED = re.compile(r"([A-Za-z][\w./-]*)(?:\[\d+\])?(?::\s*| - )(?!//)(?=\S)")
_SYSLOG_SOURCE = re.compile(r"\S+ ([\w./-]+)(?:\[\d+\])?: (.*)")
_PROCESS = re.compile(r"\S+ ([\w./-]+)\[\d+\]: ")
_LOGFMT = re.compile(r'([A-Za-z_@][\w.@-]*)=("(?:[^"\\]|\\.)*"|\S*)')
_REQUEST = re.compile(r'"?\b(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (\S+)(?: HTTP/[\d.]+)?" (?:status=)?([1-5]\d\d)\b')

_TIME_KEYS = ("ts", "time", "timestamp", "@timestamp", "t", "asctime", "datetime")
_LEVEL_KEYS = ("level", "severity", "lvl", "levelname", "log.level", "loglevel")
_COMPONENT_KEYS = ("logger", "component", "name", "module", "caller", "service", "app", "unit")
_MESSAGE_KEYS = ("msg", "message", "event", "text", "log")
_CAUSE_KEYS = ("exc", "exc_info", "exception", "stack_trace", "stacktrace", "stack", "traceback", "error", "err")
_STATUS_KEYS = ("status", "status_code", "http_status", "code")
_NAMED_KEYS = {*_TIME_KEYS, *_LEVEL_KEYS, *_COMPONENT_KEYS, *_MESSAGE_KEYS, *_CAUSE_KEYS}


def _level(value: Any) -> str:
    """A level as people and libraries write it; numbers as Python's (10 to 50) or bunyan's (10 to 60)."""
    if isinstance(value, str):
        return _LEVELS.get(value.strip().lower(), "")
    if isinstance(value, int):
        return {6: "CRITICAL", 5: "ERROR", 4: "WARNING", 3: "INFO", 2: "DEBUG"}.get(value // 10, "")
    return ""


def _first(fields: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) not in (None, "")), None)


def _structured(fields: dict[str, Any], form: str) -> Record | None:
    message, at = _first(fields, _MESSAGE_KEYS), _time_of(_first(fields, _TIME_KEYS))
    level = _level(_first(fields, _LEVEL_KEYS))
    if message is None and not level:
        return None
    cause = _first(fields, _CAUSE_KEYS)
    status = _first(fields, _STATUS_KEYS)
    if isinstance(cause, dict):
        cause = f"{cause.get('type', '')}: {cause.get('message', '')}"
    component = str(_first(fields, _COMPONENT_KEYS) or "")
    record = Record(at, level, component, str(message or ""), format=form)
    record.cause = exception_of(cause) if isinstance(cause, str) else ""
    others = {k: v for k, v in fields.items() if k not in _NAMED_KEYS and isinstance(v, str | int | float)}
    record.extra = ", ".join(f"{k}={v}" for k, v in others.items())
    if str(status).isdecimal() and 100 <= int(status) <= 599 and ("method" in fields or "path" in fields):
        record.status = int(status)
        record.message = f"{fields.get('method', '')} {fields.get('path', fields.get('url', ''))}".strip()
    return record


def _json_line(line: str) -> Record | None:
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _structured(fields, "json") if isinstance(fields, dict) else None


def _logfmt_line(line: str) -> Record | None:
    if not _LOGFMT.match(line):
        return None
    fields = {k: json_text(v) if v.startswith('"') else v for k, v in _LOGFMT.findall(line)}
    if not any(key in fields for key in _LEVEL_KEYS + _TIME_KEYS):
        return None
    return _structured(fields, "logfmt")


def json_text(quoted: str) -> str:
    """The text of a quoted value, with its escapes undone where they are JSON's."""
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted.strip('"')


def _text_line(line: str) -> Record | None:
    if match := _REDIS.match(line):
        day, month, year, clock, mark, message = match.groups()
        return Record(_named_month(year, month, day, clock), _REDIS_LEVELS[mark], "redis", message, format="redis")
    if match := _KLOG.match(line):
        letter, month, day, clock, source, message = match.groups()
        at = _at(f"{UNKNOWN_YEAR}-{month}-{day}", clock)
        return Record(at, _level(letter), source, message, format="klog")
    if match := _ACCESS.match(line):
        day, month, year, clock, zone, message = match.groups()
        return Record(_named_month(year, month, day, clock, zone), "INFO", "access", message, format="access")
    start = 1 if line.startswith("[") else 0
    if match := _ISO.match(line, start):
        at = _at(*match.groups())
    elif match := _SLASHED.match(line, start):
        at = _at("-".join(match.groups()[:3]), match.group(4))
    elif match := _SYSLOG.match(line, start):
        at = _named_month(UNKNOWN_YEAR, *match.groups())
        if source := _SYSLOG_SOURCE.match(line, match.end() + 1):
            record = _rest(at, source.group(2), "syslog")
            record.component = source.group(1)
            return record
    elif (match := _LEADING_LEVEL.match(line)) and line[: match.end()].rstrip(" ")[-1] in ":]|-":
        return _rest(None, line, "text")  # `ERROR:shop:…`: a level, but no time
    else:
        return None
    return _rest(at, line[match.end() :], "text") if at is not None else None


def _rest(at: float | None, rest: str, form: str) -> Record:
    """What stands behind the time: level, component, message, in either order and many a punctuation."""
    rest = rest.lstrip("] \t|-:,")
    level = component = ""
    if (match := _LEADING_LEVEL.match(rest)) or (match := _NEAR_LEVEL.search(rest[:80])):
        level = _LEVELS[match.group(1).lower()]
        before, rest = rest[: match.start()], rest[match.end() :]
        if (source := _BRACKETED.match(rest) or _NAMED.match(rest)) and not source.group(1).endswith(_NOT_A_NAME):
            component, rest = source.group(1), rest[source.end() :]
        elif source := re.search(r"[A-Za-z][\w./-]*", before):
            component = source.group()
    elif source := _BRACKETED.match(rest) or _PROCESS.match(rest):
        component, rest = source.group(1), rest[source.end() :]
    return Record(at, level, component, rest, format=form)


_NOT_A_NAME = ("Error", "Exception")


def read_line(line: str) -> Record | None:
    """The record that starts on this line, or None if none does."""
    record = _json_line(line) or _text_line(line) or _logfmt_line(line)
    if record is None and (match := _COMPOSE.match(line)):
        record = read_line(line[match.end() :])
        if record is not None:
            record.component = record.component or match.group(1)
    if record is None:
        return None
    record.component = record.component[:COMPONENT_CHARS]
    if record.status is None and (match := _REQUEST.search(record.message)):
        record.status = int(match.group(3))
        record.message = f"{match.group(1)} {match.group(2).partition('?')[0]}"
    return record


# ---- what a line doesn't say outright

OPENS = ("Traceback (most recent call last)", "Caused by:", "Exception in thread", "The above exception was")
AGAIN = ("During handling of the above exception", *OPENS)
EXCEPTION = re.compile(r"(?:Caused by: |Exception in thread \S+ )?((?:[\w$]+\.)*[A-Za-z_]\w*)(?:: .*|:|)$")


def exception_of(text: str) -> str:
    """The line that names the exception: of a chain the last, which is the one that surfaced."""
    lines = [line for line in text.splitlines() if line.strip()]
    named = [ln for ln in lines if not ln[0].isspace() and EXCEPTION.match(ln) and not ln.startswith(AGAIN[0])]
    return (named[-1] if named else lines[0] if lines else "").removeprefix("Caused by: ")[:MESSAGE_CHARS]


_BAD = re.compile(r"\b(errors?|exception|fatal|panic|out of memory|segfault|oom-kill|killed process)\b", re.IGNORECASE)
_DOUBTFUL = re.compile(r"\b(warn\w*|fail(ed|ure|s)?|denied|refused|timed? ?out|unreachable)\b", re.IGNORECASE)


def guess_level(record: Record) -> str:
    """A level for a record that has none, from its words. The report says how many were guessed."""
    if record.cause or (record.status is None and _BAD.search(record.message)):
        return "ERROR"
    return "WARNING" if record.status is None and _DOUBTFUL.search(record.message) else "INFO"
