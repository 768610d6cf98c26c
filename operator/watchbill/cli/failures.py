"""What goes wrong → what a person reads on stderr, and the exit code. The only place that decides either.

0 ok; 1 the task failed, or hasn't ended; 2 the usage or the input is wrong; 3 the store can't be reached; 70 a bug of
ours, with its traceback; 128 + n after signal n.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Final, ParamSpec

import typer

from watchbill.cli import output
from watchbill.errors import InvalidInput, NoStore, RetryLater, StoreUnavailable, UserActionRequired, WatchbillError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
BUG: Final = 70

P = ParamSpec("P")


def reported(command: Callable[P, int]) -> Callable[P, None]:
    """The command for typer: what it returns becomes the exit code, what it raises a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:  # before there was an event loop to hear it
            code = 130
        except BrokenPipeError:
            code = _nobody_reads()
        except Exception as error:
            code = report(error)
        raise typer.Exit(code)

    return wrapped


def report(error: Exception) -> int:
    """Tells of the error, each problem on a line of its own. Returns the exit code."""
    if isinstance(error, InvalidInput):
        for problem in error.problems:
            output.say(f"error: {problem}")
        return USAGE
    if isinstance(error, WatchbillError):
        output.say(f"error: {error}")
        if isinstance(error, NoStore | StoreUnavailable) or _is_of_redis(error):
            return UNREACHABLE
        return USAGE if isinstance(error, UserActionRequired) else FAILED
    if _is_of_redis(error):
        # Refusals that waiting can't mend: a password, a permission, a server that is too old.
        output.say(f"error: the store refuses: {error}. Check the URL's user and password; Redis 7.0 is the oldest.")
        return UNREACHABLE
    return _bug(error)


def _is_of_redis(error: Exception) -> bool:
    """Asked without importing it."""
    return any(kind.__module__.partition(".")[0] == "redis" for kind in type(error).__mro__)


def is_transient(error: BaseException) -> bool:
    """Whether looking again later may help, so that a view keeps showing what it knows."""
    return isinstance(error, RetryLater)


def _bug(error: Exception) -> int:
    import traceback

    from watchbill.worker.redact import Redactor

    text = "".join(traceback.format_exception(error))
    sys.stderr.write(Redactor(os.environ)(text))
    output.say("error: this is a bug in Watchbill; please report it with the lines above.")
    return BUG


def _nobody_reads() -> int:
    """`watchbill events | head`: not our fault. Keeps Python from complaining when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13
