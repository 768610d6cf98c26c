"""Finds where in its own code an agent failed. Also used in agents' own processes: imports no store.

Own code is what is neither Watchbill's nor of the standard library, nor installed beside them; of an agent that is
itself installed, what is of its package.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType
from typing import Final

import watchbill
from watchbill.errors import ToolError, WatchbillError
from watchbill.redaction import redact

_OURS: Final = os.path.dirname(os.path.abspath(watchbill.__file__)) + os.sep
_STANDARD: Final = tuple(os.path.abspath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_CAUSES: Final = 5


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return ""


_HERE: Final = _here()
"""The folder in which this process began: an agent may change it."""


def marked(text: str, error: BaseException) -> str:
    """Returns the text with `(file:line, in function)` behind its first line. Never raises.

    Free of secrets: one of several lines would not be known any more once they are taken apart.

    Without it for what is raised on purpose (RetryAfter, …), and where no frame is the agent's own.
    """
    text = redact(text)
    with suppress(BaseException):  # a stranger's object may do anything when it is looked at
        error, text = _first(error, text)
        if not isinstance(error, WatchbillError) or isinstance(error, ToolError):
            # What called the tool (a library of models) is in the ToolError's own traceback, the tool in its cause's.
            failed = error.__cause__ if isinstance(error, ToolError) and error.__cause__ else error
            place = next((found for one in _chain(failed) if (found := _last(one))), "")
            first, end, rest = text.partition("\n")
            return f"{first} ({place}){end}{rest}" if place else text
    return text


def _first(error: BaseException, text: str) -> tuple[BaseException, str]:
    """Returns the first of several errors at once, as from a TaskGroup, and its text."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
        told = redact("".join(traceback.format_exception_only(error))).strip().partition("\n")[0]
        text = f"{text}; the first: {told}"
    return error, text


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _last(error: BaseException) -> str:
    """Returns the last frame of the agent's own code; empty where there is none."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    strange = [(code, line) for code, line in frames if _is_strange(code)]
    own = [one for one in strange if not any(part in one[0].co_filename for part in _INSTALLED)]
    if not own and strange:
        package = _package(strange[0][0].co_filename)
        own = [one for one in strange if _package(one[0].co_filename) == package]
    if not own:
        return ""
    code, line = own[-1]
    path = code.co_filename
    return f"{os.path.relpath(path, _HERE) if _is_below(path, _HERE) else path}:{line}, in {code.co_name}"


def _is_strange(code: CodeType) -> bool:
    path = code.co_filename
    if path.startswith(("<", _OURS)):
        return False
    return not path.startswith(_STANDARD) or any(part in path for part in _INSTALLED)


def _is_below(path: str, folder: str) -> bool:
    return bool(folder) and os.path.abspath(path).startswith(folder.rstrip(os.sep) + os.sep)


def _package(path: str) -> str:
    for part in _INSTALLED:
        before, found, behind = path.partition(part)
        if found:
            return before + found + behind.partition(os.sep)[0]
    return path
