"""Log lines as every process of Watchbill writes them: without secrets, each record beginning one line and no more.

What agents log says whose it is: `INFO agent default/minutes/mail run=… task=…: half way`. As JSON, each line has the
fields that are known where it is logged: docs/logs.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from watchbill.redaction import redact
from watchbill.terminal import as_json, indented

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
ABOUT: Final = ("crew", "agent", "run", "task", "attempt", "trace_id")
"""Fields that tell what a line is about, in their order."""
FORMAT: Final = "%(asctime)s %(levelname)s %(who)s: %(message)s"
AGENTS: Final = "watchbill.agent"
"""The logger of what agents say; what a worker says of them is `watchbill.worker`'s."""
_agents: Final = logging.getLogger(AGENTS)
"""Looked up once: that takes a lock, and each run has a logger."""


_bound: Final[ContextVar[Mapping[str, Any]]] = ContextVar("watchbill_log_fields")


def bind(fields: Mapping[str, Any]) -> None:
    """Lines that the current asyncio task, and what it starts, logs from now on are about this, unless they say so
    themselves. `fields`: some of ABOUT."""
    _bound.set(fields)


def bound() -> Mapping[str, Any]:
    """Returns the fields that the current asyncio task has bound."""
    return _bound.get({})


def of_agent(
    crew: str, agent: str, run_id: str | None, task_id: str, attempt: int
) -> logging.LoggerAdapter[logging.Logger]:
    """The logger of one attempt of an agent. `crew`: namespace/name."""
    return logging.LoggerAdapter(_agents, about(crew, agent, run_id, task_id, attempt))


def about(crew: str, agent: str, run_id: str | None, task_id: str, attempt: int) -> dict[str, Any]:
    """Returns the attributes of a log record about a task, for any formatter and filter."""
    return {"crew": crew, "agent": agent, "run": run_id, "task": task_id, "attempt": attempt}


def is_of_agent(record: logging.LogRecord) -> bool:
    """Returns whether a known agent wrote the record."""
    return record.name == AGENTS and {"crew", "agent", "task"} <= vars(record).keys()


class Formatter(logging.Formatter):
    """No secret, no control character; lines after the first, tracebacks included, are indented."""

    def __init__(self, fmt: str = FORMAT, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)

    def format(self, record: logging.LogRecord) -> str:
        record.who = _who(record)
        return indented(redact(super().format(record)))

    def unwritable(self, record: logging.LogRecord) -> str:
        """Returns the text in place of a record that can't be formatted."""
        return unwritable(record)


class JsonFormatter(Formatter):
    """One JSON object, in one line. No secret, no control character."""

    def format(self, record: logging.LogRecord) -> str:
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        return self._line(record, record.getMessage(), trace)

    def unwritable(self, record: logging.LogRecord) -> str:
        return self._line(record, unwritable(record), None)

    def _line(self, record: logging.LogRecord, message: str, trace: str | None) -> str:
        told = {**bound(), **vars(record)}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(message),
            **{name: value for name in ABOUT if isinstance(value := told.get(name), str | int)},
        }
        if trace:
            line["traceback"] = redact(trace)
        return as_json(line)


def _who(record: logging.LogRecord) -> str:
    if not is_of_agent(record):
        return record.name
    told = vars(record)
    run = f" run={told['run']}" if told.get("run") else ""
    return f"agent {told['crew']}/{told['agent']}{run} task={told['task']}"


def formatter(name: str) -> Formatter:
    """Returns the formatter of WATCHBILL_LOG_FORMAT."""
    return JsonFormatter() if name == "json" else Formatter()


class Handler(logging.StreamHandler[Any]):
    """Writes to stderr, or to what stands for it."""

    def __init__(self, stream: Any = None, formatter: Formatter | None = None) -> None:
        super().__init__(stream)
        self._formatter = formatter or Formatter()
        self.setFormatter(self._formatter)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging names it so
        with suppress(Exception):  # nothing more can be done
            self.stream.write(f"{self._formatter.unwritable(record)}\n")
            self.flush()


def unwritable(record: logging.LogRecord) -> str:
    """Returns the text in place of a record that can't be formatted. Python's own words would quote its arguments."""
    error = sys.exc_info()[1]
    why = f"{type(error).__name__}: {error}" if error else "no reason is known"
    return indented(
        redact(f"{record.levelname} {_who(record)}: a log line ({record.msg!r}) could not be written: {why}")
    )


def set_up(level: int | str, handler: logging.Handler | None = None) -> None:
    """Log lines go to stderr, or where `handler` puts them, from now on and nowhere else."""
    logging.basicConfig(level=level, handlers=[handler or Handler()], force=True)
