"""Loggers that never raise.

An agent's module may put anything into Python's logging: a record factory, a filter, a handler that raises. What is
logged about must go on all the same.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any


class Logger:
    """`logging.getLogger(name)`, whose faults cost a line, and not what the line was about."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, *args: Any) -> None:
        self._log(logging.DEBUG, message, args)

    def info(self, message: str, *args: Any) -> None:
        self._log(logging.INFO, message, args)

    def warning(self, message: str, *args: Any) -> None:
        self._log(logging.WARNING, message, args)

    def error(self, message: str, *args: Any, exc_info: BaseException | None = None) -> None:
        self._log(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: Any) -> None:
        """With the traceback of the exception that is being handled."""
        self._log(logging.ERROR, message, args, True)

    def _log(
        self, level: int, message: str, args: tuple[Any, ...], exc_info: bool | BaseException | None = None
    ) -> None:
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)
        except Exception as fault:
            # Without the line itself: no formatter has taken the secrets out of it.
            with suppress(Exception):
                where = f"{self._logger.name}: a line could not be logged: {type(fault).__name__} at {_place(fault)}"
                sys.stderr.write(f"{where}\n")


def _place(fault: BaseException) -> str:
    """`file:line` of what raised it."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
