"""Errors → messages on stderr and exit codes. No other module decides either."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec

import typer

from watchbill.cli import output
from watchbill.errors import (
    InvalidInput,
    NoStore,
    RetryLater,
    StoreUnavailable,
    UserActionRequired,
    WatchbillError,
    sentence,
)
from watchbill.redaction import redact

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
BUG: Final = 70
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
EXIT_CODES: Final = (
    "Exit codes: 0 ok; 1 the task failed, was cancelled or hasn't ended, `doctor` found an error, or stdout couldn't "
    "be written to; 2 wrong usage or input; 3 no store can be reached; 70 a bug of Watchbill, with its traceback on "
    "stderr; 130 after Ctrl-C and 143 after SIGTERM (the normal end of `run --watch`; `worker` and `operator` end with "
    "0); 141 stdout was closed."
)

P = ParamSpec("P")


def reported(command: Callable[P, int]) -> Callable[P, None]:
    """The command for typer: its return value becomes the exit code, its error a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
            output.stdout().flush()
        except KeyboardInterrupt:  # before there was an event loop to hear it
            code = 130
        except Exception as error:
            code = _unwritten(error) if isinstance(error, OSError) and _is_of_stdout(error) else report(error)
        raise typer.Exit(code)

    return wrapped


@contextlib.contextmanager
def hinting_at(where: str) -> Iterator[None]:
    """Guards the writing of a result: if stdout fails, prints `where`, a hint how to get it, on stderr."""
    try:
        yield
    except OSError:
        output.say(f"the result couldn't be written to stdout. {where}")
        raise


def _is_of_stdout(error: OSError) -> bool:
    try:
        output.stdout().flush()
    except OSError:  # what couldn't be written is still in its buffer, and fails again
        return True
    unbuffered = getattr(output.stdout(), "write_through", False)  # PYTHONUNBUFFERED
    return isinstance(error, BrokenPipeError) or (unbuffered and error.errno in _FULL and error.filename is None)


def _unwritten(error: OSError) -> int:
    # Else Python complains once more when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.stdout().fileno())
    if isinstance(error, BrokenPipeError):  # `watchbill events | head`: not our fault
        return 128 + signal.SIGPIPE
    output.say(f"error: stdout can't be written to: {sentence(error.strerror or error)}")
    return FAILED


def report(error: Exception) -> int:
    """Prints the error, each problem on a line of its own. Returns the exit code."""
    if isinstance(error, InvalidInput):
        for problem in error.problems:
            output.say(f"error: {redact(str(problem))}")
        return USAGE
    if isinstance(error, WatchbillError):
        output.say(f"error: {redact(str(error))}")
        if isinstance(error, NoStore | StoreUnavailable) or _is_of_redis(error):
            return UNREACHABLE
        return USAGE if isinstance(error, UserActionRequired) else FAILED
    if _is_of_redis(error):
        # Refusals that waiting can't mend: a password, a permission, a server that is too old.
        fix = "Check the URL's user and password; Redis 7.0 is the oldest."
        output.say(f"error: the store refuses: {sentence(redact(str(error)))} {fix}")
        return UNREACHABLE
    return _bug(error)


def _is_of_redis(error: Exception) -> bool:
    """Returns whether redis-py raised the error. Doesn't import redis."""
    return any(kind.__module__.partition(".")[0] == "redis" for kind in type(error).__mro__)


def is_transient(error: BaseException) -> bool:
    """Returns whether a later attempt may succeed, so that a view keeps what it shows."""
    return isinstance(error, RetryLater)


def _bug(error: Exception) -> int:
    import traceback

    output.say(redact("".join(traceback.format_exception(error))).rstrip())
    output.say("error: this is a bug in Watchbill; please report it with the lines above.")
    return BUG
