"""Log lines as every process of Watchbill writes them: without secrets, each record beginning one line and no more.

What agents log says whose it is: `INFO agent default/minutes/mail run=… task=…: half way`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Final

from watchbill.redaction import redact
from watchbill.terminal import indented

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMAT: Final = "%(asctime)s %(levelname)s %(who)s: %(message)s"
AGENTS: Final = "watchbill.agent"
"""The logger of what agents say; what a worker says of them is `watchbill.worker`'s."""
_agents: Final = logging.getLogger(AGENTS)
"""Looked up once: that takes a lock, and each run has a logger."""


def of_agent(crew: str, agent: str, run_id: str | None, task_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """The logger of one agent's run. `crew`: namespace/name."""
    return logging.LoggerAdapter(_agents, about(crew, agent, run_id, task_id))


def about(crew: str, agent: str, run_id: str | None, task_id: str) -> dict[str, Any]:
    """Returns the attributes of a log record about a task, for any formatter and filter."""
    return {"crew": crew, "agent": agent, "run": run_id, "task": task_id}


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


def _who(record: logging.LogRecord) -> str:
    if not is_of_agent(record):
        return record.name
    told = vars(record)
    run = f" run={told['run']}" if told.get("run") else ""
    return f"agent {told['crew']}/{told['agent']}{run} task={told['task']}"


class Handler(logging.StreamHandler[Any]):
    """Writes to stderr, or to what stands for it."""

    def __init__(self, stream: Any = None, formatter: logging.Formatter | None = None) -> None:
        super().__init__(stream)
        self.setFormatter(formatter or Formatter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging names it so
        with suppress(Exception):  # nothing more can be done
            self.stream.write(f"{unwritable(record)}\n")
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
