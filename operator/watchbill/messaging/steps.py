"""The steps that a core asks its shell to take, one after the other. Does no I/O.

A core's method is a generator: it yields a step, is sent the answer (or thrown the error) and returns the result. So
the decisions are written once, and the two kinds of shells (shells.py) differ by nothing but `await`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A command. Its answer is what redis-py makes of the server's, with text for bytes."""

    command: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A script of messaging/scripts, by its name without `.lua`. It must be safe to send twice."""

    name: str
    keys: tuple[str, ...]
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait of so many seconds. Its answer is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Block:
    """A command that the server answers within so many seconds, at once if it has something. The answer may be None
    early where the client has no connection to spare for it."""

    command: tuple[Any, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """A call of a user's function. Its answer is the exception that it raised, or None."""

    function: Callable[[Any], Any]
    argument: Any


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """An acknowledgement of one message of a group. A shell may answer before it is sent, and send several as one: True
    unless such an earlier one has failed. Safe to be taken twice."""

    key: str
    group: str
    message: str


@dataclass(frozen=True, slots=True)
class Settle:
    """A wait until all acknowledgements are sent. Its answer is True unless one has failed since the last such step."""


Step = Call | Script | Pause | Block | Run | Acknowledge | Settle
Steps = Generator[Step, Any, T]
"""A core's method, which returns a T in the end."""


def call(*command: Any) -> Steps[Any]:
    """One command, whose answer is the result."""
    return (yield Call(command))
