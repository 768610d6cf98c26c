"""What the environment and -v/-q say: settings, and which log lines go to stderr. No secret comes out of here."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from watchbill import logs

if TYPE_CHECKING:
    from watchbill.settings import Settings

_level: str | None = None
"""What -v and -q say."""


class _Stderr:
    """Whatever sys.stderr is at the time: while the tree of steps is shown, that puts log lines above it."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _OfAgents(logs.Formatter):
    """What agents log looks like what they say on the feed: `12:00:01 mail: half way`."""

    def __init__(self) -> None:
        super().__init__()
        self._info = logs.Formatter("%(asctime)s %(agent)s: %(message)s", "%H:%M:%S")
        self._more = logs.Formatter("%(asctime)s %(agent)s: %(levelname)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if not logs.is_of_agent(record):
            return super().format(record)
        return (self._info if record.levelno == logging.INFO else self._more).format(record)


def set_level(verbose: int, quiet: bool) -> None:
    """By -v and -q, for this process."""
    global _level
    _level = "ERROR" if quiet else (None, "INFO", "DEBUG")[min(verbose, 2)]


def is_quiet() -> bool:
    """Whether nobody wants to see how the work goes."""
    return _level == "ERROR"


def read() -> Settings:
    """The settings; log lines go to stderr from now on, without secrets. Raises InvalidInput, naming the variable."""
    from watchbill import settings

    found = settings.read(settings.Settings)
    logs.set_up(_level or found.log_level, logs.Handler(_Stderr()))
    return found


def show_agents() -> None:
    """What agents log at INFO and above is shown, too, under their names; unless something was said of log lines."""
    from watchbill import settings

    if _level is None and "log_level" not in settings.Settings().model_fields_set:
        logging.getLogger(logs.AGENTS).setLevel(logging.INFO)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_OfAgents())
