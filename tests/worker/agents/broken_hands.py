"""Agents that break, whose results and exceptions can't be read, and that try to tell secrets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

from hands import is_open, note


class Odd(BaseException):
    """What no `except Exception` catches."""


class Mute(Exception):
    """Can't even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unattributable(Exception):
    """Has an attribute of any name, or none: Python itself can't format its traceback."""

    def __getattr__(self, name: str) -> Any:
        return {"code": 17}[name]


class Untouchable(Exception):
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("hands off")

    def __str__(self) -> str:
        return str(self.anything)

    __repr__ = __str__


class Silent(Exception):
    """Doesn't say what it is before its folder is open."""

    def __str__(self) -> str:
        note(self.args[0], "asked", self.args[1])
        while not is_open(self.args[0], self.args[1]):
            time.sleep(0.01)
        return "at last"


class SilentlyFails:
    """On the event loop; its exception takes its time to say what it is."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> None:
        raise Silent(self.folder, context)


def _raise(error: BaseException) -> Any:
    raise error


def _recurse(depth: int = 0) -> Any:
    return _recurse(depth + 1)


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _too_deep_to_read() -> list[Any]:
    """It can be written, and readers of JSON give up."""
    deep: list[Any] = []
    for _ in range(220):
        deep = [deep]
    return deep


def _hopes_for_ever() -> Any:
    error = ValueError("much later")
    error.retry_after = 10**400  # type: ignore[attr-defined]  # no float is as large
    raise error


def _rows() -> Any:
    yield 1
    raise ConnectionError("in a row")


def _group() -> Any:
    raise BaseExceptionGroup("several", [Odd("one"), ValueError("two")])


NOTHING: dict[str, Any] = {}
MISCHIEF: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: _raise(ValueError("it broke")),
    "KeyError": lambda: NOTHING["missing"],
    "StopIteration": lambda: _raise(StopIteration("enough")),
    "TimeoutError": lambda: _raise(TimeoutError("of its own")),
    "RecursionError": _recurse,
    "MemoryError": lambda: _raise(MemoryError("no room")),
    "AssertionError": lambda: _raise(AssertionError()),
    "Mute": lambda: _raise(Mute()),
    "Unattributable": lambda: _raise(Unattributable("the API refused")),
    "Untouchable": lambda: _raise(Untouchable("of glass")),
    "an iterator's": lambda: {"rows": _rows()},
    "ConnectionError": lambda: _raise(ConnectionError("not the store's")),
    "concurrent.CancelledError": lambda: _raise(concurrent.futures.CancelledError("of a pool")),
    "SystemExit": lambda: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt("ctrl-c")),
    "GeneratorExit": lambda: _raise(GeneratorExit("bye")),
    "CancelledError": lambda: _raise(asyncio.CancelledError("of its own")),
    "Odd": lambda: _raise(Odd("odd")),
    "group": _group,
    "huge error": lambda: _raise(ValueError("x" * 20_000_000)),
    "surrogate error": lambda: _raise(ValueError("lone \ud800 and \udc80")),
    "endless pause": _hopes_for_ever,
    "object": lambda: object(),
    "circle": _circle,
    "deep": _deep,
    "too deep to read": _too_deep_to_read,
    "20 MB": lambda: "y" * 20_000_000,
    "20 MB of euros": lambda: "€" * 7_000_000,
    "endless": lambda: itertools.repeat("y" * 1_000_000),
    "long integer": lambda: {"n": [1, 10**4300]},
    "not a number": lambda: {"rows": [{"mean": 1.5}, {"mean": float("nan")}]},
    "one key": lambda: {1: "a", "1": "b"},
    "half an emoji": lambda: ["cut off \ud83c", "whole \ud83c\udf88"],
}


async def reports_junk(context: Any) -> str:
    """Another library's usage, say."""
    context.report_usage({"prompt_tokens": 5})
    return "done"


async def say_odd_things(context: Any) -> list[str]:
    """Returns what was refused."""
    refused = []
    for message in ("plain", 'quotes " and \\ and \n and \x01 and €', "z" * 100_000, "lone \ud800", "lone \udc80"):
        try:
            await context.emit(message)
        except ValueError as error:
            refused.append(str(error))
    return refused


class Mischief:
    """Does what its prompt says: raises or returns something that it shouldn't."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return MISCHIEF[context.prompt]()


class ThreadMischief:
    """The same in a thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return MISCHIEF[context.prompt]()


def secrets_here() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ["NAMES_OF_SECRETS"].split(",")}


class Leak:
    """Tries to let out every secret that it finds in its environment: says, logs and raises them."""

    async def run(self, context: Any) -> None:
        for name, secret in secrets_here().items():
            await context.emit(f"says {name} is {secret}")
            context.logger.warning("logs %s", secret)
            try:
                raise ValueError(f"caught {secret}")
            except ValueError:
                context.logger.exception("with a traceback")
        raise RuntimeError(f"failed with {secrets_here().get(context.prompt)}")


def leak_sync(context: Any) -> None:
    """The same, from a thread, with the secret hidden in a cause."""
    for name, secret in secrets_here().items():
        context.emit_sync(f"says {name} is {secret}")
        context.logger.warning("logs %s", secret)
    try:
        NOTHING[secrets_here()["GITHUB_TOKEN"]]
    except KeyError:
        context.logger.exception("with a traceback")
    try:
        raise ValueError(secrets_here().get(context.prompt))
    except ValueError as error:
        raise RuntimeError(f"failed with {error}") from error


async def leak_repr(context: Any) -> None:
    """The same, quoted, as KeyError and many libraries do."""
    for name, secret in secrets_here().items():
        await context.emit(f"says {name} is {secret if name == 'GITHUB_TOKEN' else repr(secret)}")
        context.logger.warning("logs %r", secret)
        try:
            raise KeyError(secret)
        except KeyError:
            context.logger.exception("with a traceback")
    raise KeyError(f"failed with {secrets_here().get(context.prompt)}")


class Shaky:
    """Fails as its prompt says (`kind`, or `kind:attempts`), until that attempt is over; then it is done.

    Where it is busy, it is to be tried again after so many seconds.
    """

    def __init__(self, folder: str, again: float = 1.0) -> None:
        self.folder = folder
        self.again = again

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        kind, _, attempts = context.prompt.partition(":")
        if attempts and context.attempt > int(attempts):
            return f"attempt {context.attempt}"
        if kind == "hopeless":
            error: Exception = RuntimeError("it will never work")
            error.retryable = False  # type: ignore[attr-defined]
        elif kind == "busy":
            error = RuntimeError("come back later")
            error.retry_after = self.again  # type: ignore[attr-defined]
        elif kind == "bug":
            error = TypeError("a fault of the code")
        else:
            error = OSError("the network is away")
        raise error
