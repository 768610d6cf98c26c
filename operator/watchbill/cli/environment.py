"""Reads the settings of the environment, and sets up the log on stderr by -v and -q. It passes on no secret."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

from watchbill import logs
from watchbill.cli.options import QuietOption, VerboseOption, add, refuse_together

if TYPE_CHECKING:
    from watchbill.settings import Settings

P = ParamSpec("P")

_level: str | None = None
"""The level that -v and -q set; None if neither is given."""


class _Stderr:
    """Writes to the current sys.stderr: while the tree of steps is shown, it puts log lines above the tree."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _OfAgents(logs.Formatter):
    """Formats the log lines of agents like their messages on the feed: `12:00:01 mail: half way`."""

    def __init__(self) -> None:
        super().__init__()
        self._info = logs.Formatter("%(asctime)s %(agent)s: %(message)s", "%H:%M:%S")
        self._more = logs.Formatter("%(asctime)s %(agent)s: %(levelname)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if not logs.is_of_agent(record):
            return super().format(record)
        return (self._info if record.levelno == logging.INFO else self._more).format(record)


def leveled(command: Callable[P, int]) -> Callable[P, int]:
    """Adds the options -v and -q, which set the level of the log on stderr, to a command."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        global _level
        verbose, quiet = int(kwargs.pop("verbose", 0)), kwargs.pop("quiet", False)  # type: ignore[call-overload]
        refuse_together({("--verbose", "--quiet"): (verbose or None, quiet, "Leave one out.")})
        _level = "ERROR" if quiet else (None, "INFO", "DEBUG")[min(verbose, 2)]
        return command(*args, **kwargs)

    add(wrapped, command, {"verbose": (VerboseOption, 0), "quiet": (QuietOption, False)})
    return wrapped


def is_quiet() -> bool:
    """Returns whether -q was given: progress is not shown."""
    return _level == "ERROR"


def read(*, agents: bool = False, traced: bool = False) -> Settings:
    """Reads the settings, and sends log lines to stderr from now on, without secrets. Raises InvalidInput.

    `agents`: show INFO lines of agents, too, in short, unless a level was given. `traced`: make spans from now on, if
    the settings name a collector; `process.run` ends that.
    """
    from watchbill import settings

    found = settings.read(settings.Settings)
    told = _level or (found.log_level if "log_level" in found.model_fields_set else None)
    shown = agents and told is None
    plain = found.log_format == "text"
    formatter = _OfAgents() if shown and plain else logs.formatter(found.log_format)
    logs.set_up(told or found.log_level, logs.Handler(_Stderr(), formatter))
    if shown:
        logging.getLogger(logs.AGENTS).setLevel(logging.INFO)
    if traced:
        from watchbill.tracing import switch

        switch.on(found, "watchbill")
    return found
