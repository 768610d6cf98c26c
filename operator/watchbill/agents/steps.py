"""Steps within a task, for `Context.step`: the names under which their results are kept, and the JSON that is kept.

May do no I/O: `Checkpoints` is the way to what keeps them. Also used in agents' own processes: imports no store.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic_core import from_json

from watchbill.agents.text import sound
from watchbill.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.agents.batching import Lane
    from watchbill.agents.memory import Memory

NAME_MAX: Final = 200
"""The most characters of a step's name."""
RESULT_MAX_BYTES: Final = 8 * 1024 * 1024
"""The most bytes of JSON that one step returns."""
STEPS_MAX: Final = 10_000
"""The most steps of one task."""
ALL_MAX_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of JSON that the steps of one task return together."""


class Checkpoints(Protocol):
    """The checkpoints of one task, as one attempt reads and adds to them. A checkpoint is the result of a step.

    The methods for threads are the same; they must not be called on the event loop. All raise Fenced when the task is
    no longer this attempt's: nothing was stored then.
    """

    @property
    def memory(self) -> Memory:
        """The way to the task's session."""
        ...

    @property
    def lane(self) -> Lane | None:
        """The way to the batches of providers; None in a process of its own, and for a task that may not wait."""
        ...

    async def find(self, name: str) -> str | None:
        """Returns the stored JSON of this name; None: there is none."""
        ...

    async def keep(self, name: str, value: str) -> None:
        """Stores JSON under a name. Raises InvalidInput where a bound of the task is reached."""
        ...

    def find_in_thread(self, name: str) -> str | None: ...
    def keep_in_thread(self, name: str, value: str) -> None: ...


class Names:
    """The names of one attempt's steps. A name that is used again gets the next number."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: dict[str, itertools.count[int]] = {}

    def next(self, name: str) -> str:
        """Returns the name of the checkpoint: `fetch#1`, `fetch#2`, … Raises InvalidInput for what is no name."""
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_MAX:
            reason = f"{str(name)[:NAME_MAX]!r} is no name of a step"
            fix = f"Give it 1 to {NAME_MAX} printable characters."
            raise InvalidInput(Problem(reason, fix, path="name"))
        uses = self._used.setdefault(name, itertools.count(1))  # without a lock: no two threads get the same number
        return f"{name}#{next(uses)}"


within: Final[ContextVar[str]] = ContextVar("within", default="")
"""The name of the step in which the code runs; empty: in none."""


@contextmanager
def under(name: str) -> Iterator[None]:
    """Within it, the function of the step is called."""
    outer = within.get()
    within.set(name)
    try:
        yield
    finally:
        within.set(outer)


def check_function(name: str, function: object) -> None:
    """Raises InvalidInput for what can't be called, as the result of a call that was made already."""
    if callable(function):
        return
    if inspect.iscoroutine(function):
        function.close()  # else Python warns that nobody awaited it
    reason = f"step {name!r} was given a value of type {type(function).__name__} in place of a function"
    fix = f"Give the function and its arguments, without calling it: step({name!r}, function, argument)."
    raise InvalidInput(Problem(reason, fix, path="function"))


def encode(name: str, value: Any) -> tuple[str, Any]:
    """Returns the JSON of a step's result, and what will be read from it. Raises InvalidInput."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        reason = f"the function of step {name!r} is async, and was called in step_sync"
        raise InvalidInput(Problem(reason, "Use `await context.step(...)` in an `async def run`.", path=f"step {name}"))
    try:
        text = json.dumps(sound(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        read = from_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"what step {name!r} returned can't be stored as JSON: {error}"
        fix = "Return text, numbers, booleans, None, and lists and dicts of them."
        raise InvalidInput(Problem(reason, fix, path=f"step {name}")) from error
    if len(text) > RESULT_MAX_BYTES or (not text.isascii() and len(text.encode()) > RESULT_MAX_BYTES):
        reason = f"what step {name!r} returned is more than {RESULT_MAX_BYTES} bytes of JSON"
        raise InvalidInput(Problem(reason, "Keep it elsewhere, and return a reference.", path=f"step {name}"))
    return text, read


def decode(text: str) -> Any:
    """Returns the value of stored JSON."""
    return from_json(text)
