"""Makes JSON of what agents return. Also used in agents' own processes: imports no store.

What is plain (text, numbers, lists and dicts of them) is written as it is. Anything else may run code of the agent's:
iterators, pydantic models. So it is made into JSON where the agent ran, and what that code raises is the agent's own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from watchbill.agents.text import sound
from watchbill.tasks import Usage
from watchbill.worker.execution.failures import Unstorable, describe

RESULT_MAX_BYTES: Final = 16 * 1024 * 1024
_SURELY_SHALLOW: Final = 150
"""A value that is nested no deeper than this can be read: readers give up at 200 levels."""
_TOO_DEEP: Final = 250
_DIGITS_MAX: Final = 4300
"""The most digits of an integer that readers of JSON take: Python's own, and pydantic's."""
_PAUSE_SECONDS: Final = 0.005
"""Seconds for which an iterator's items may hold up the event loop together. A single item may take longer."""

_now: Final = time.monotonic  # noqa: TID251 - bounds how long the loop really stands still

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_PLAIN: Final = _ATOMS | {list, tuple, dict}
_TOO_MUCH: Final = f"more than {RESULT_MAX_BYTES} bytes: return a reference instead"


@dataclass(slots=True)  # not frozen: that triples what making one costs, and each task has one
class Output:
    """The return value of an agent, as JSON that can be read."""

    text: str
    replaced: int = 0
    """Number of lone surrogates, which are no characters, that were replaced by U+FFFD."""


NOTHING: Final = Output("null")


def made(agent: str, value: Any) -> Output:
    """Makes JSON of what agent `agent` returned. Raises Unstorable, and whatever the agent's own code raises: an
    iterator's, say."""
    if plain := _plain(agent, value):
        return plain
    steps = _Making(agent).all_of(value)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def made_on_loop(agent: str, value: Any) -> Output:
    """Makes JSON as `made` does, and lets the event loop turn between an iterator's items."""
    if plain := _plain(agent, value):
        return plain
    steps = _Making(agent).all_of(value)
    since = _now()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if _now() > since + _PAUSE_SECONDS:
            await asyncio.sleep(0)
            since = _now()


def as_json(
    task_id: str,
    agent_name: str,
    *,
    success: bool,
    output: Output = NOTHING,
    error: str | None = None,
    traceback: str | None = None,
    seconds: float = 0.0,
    usage: Usage | None = None,
    metadata: Mapping[str, Any] | None = None,
    attempt: int = 1,
    completed_at: datetime | None = None,
    role: str | None = None,
) -> str:
    """Writes a TaskResult as it is stored."""
    # What TaskResult(...).model_dump_json() makes, in another order and at a third of the cost: each task has one.
    result = {
        "task_id": task_id,
        "agent_name": agent_name,
        "success": success,
        "error": error,
        "execution_time_ms": round(seconds * 1000, 3),
        "metadata": {**(metadata or {}), "replaced_characters": output.replaced} if output.replaced else metadata or {},
        "usage": usage,
        "attempt": attempt,
        "completed_at": completed_at,
        "role": role,
    }
    if traceback:
        result["traceback"] = traceback
    return f'{to_json(result)[:-1].decode()},"output":{output.text}}}'


# ---------------------------------------------------------------- what is plain


def _plain(agent: str, value: Any) -> Output | None:
    """Makes JSON of a plain value. None: it isn't plain."""
    if value is None:
        return NOTHING
    depth = _depth(agent, value)
    return None if depth is None else _written(agent, value, depth)


def _depth(agent: str, value: Any) -> int | None:
    """Returns how deeply a plain value is nested, up to a bound. None: it isn't plain. Looks at types only: each
    output pays for this."""
    if type(value) in _ATOMS:
        return 0
    if type(value) not in _PLAIN:
        return None
    level, depth, containers = [value], 0, 0
    while level and depth <= _TOO_DEEP:  # what holds itself has no end
        depth += 1
        deeper: list[Any] = []
        for container in level:
            values = container
            if type(container) is dict:
                for key in container:
                    if type(key) is not str:
                        return None
                values = container.values()
            for each in values:
                kind = type(each)
                if kind not in _ATOMS:
                    if kind not in _PLAIN:
                        return None
                    deeper.append(each)
        containers += len(deeper)
        if 2 * containers > RESULT_MAX_BYTES:
            raise _refused(agent, _TOO_MUCH)
        level = deeper
    return depth


def _written(agent: str, value: Any, depth: int, replaced: int = 0) -> Output:
    """The output for a plain value."""
    try:
        try:
            text = to_json(value, inf_nan_mode="constants")
        except PydanticSerializationError as error:
            if "surrogates not allowed" not in str(error):
                raise
            clean = _Clean()
            text = to_json(clean.all_of(value), inf_nan_mode="constants")
            replaced += clean.replaced
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _refused(agent, describe(error)) from error
    if len(text) > RESULT_MAX_BYTES:
        raise _refused(agent, _TOO_MUCH)
    if type(value) is not str:
        if depth > _SURELY_SHALLOW or (len(text) > _DIGITS_MAX and _may_have_a_long_number(text)):
            _read(agent, text, value)
        if (b"NaN" in text or b"Infinity" in text) and (found := _find(from_json(text), _is_no_number)):
            place, number = found
            why = f"{place} is {_NO_NUMBERS[str(number)]}, which JSON doesn't have: return None, say"
            raise _refused(agent, why)
    return Output(text.decode(), replaced)


def _read(agent: str, text: bytes, value: Any) -> None:
    """Refuses JSON that clients couldn't read."""
    try:
        from_json(b"[" + text + b"]")  # it stands within a result
    except ValueError as error:
        why = f"it is nested too deeply to be read: {error}"
        if found := _find(value, _is_too_long):
            why = f"{found[0]} is an integer of more than {_DIGITS_MAX} digits, which can't be read: return text"
        raise _refused(agent, why) from error


def _refused(agent: str, why: str) -> Unstorable:
    return Unstorable(f"what agent {agent!r} returned can't be stored as JSON: {why}")


# ---------------------------------------------------------------- what isn't


class _Making:
    """Makes JSON of one output that isn't plain."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._room = RESULT_MAX_BYTES
        self._clean = _Clean()

    def all_of(self, value: Any) -> Generator[None, None, Output]:
        """Yields between an iterator's items."""
        unrolled = yield from self._unrolled(value, (), 0)
        agents_own: BaseException | None = None
        plain: Any = None
        try:
            plain = to_jsonable_python(unrolled, inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            agents_own = error.__cause__  # of a serializer of its models, say
            if agents_own is None:
                raise _refused(self._agent, describe(error)) from error
        if agents_own is not None:
            raise agents_own
        depth = _depth(self._agent, plain)
        return _written(self._agent, plain, _TOO_DEEP if depth is None else depth, self._clean.replaced)

    def _unrolled(self, value: Any, path: tuple[str | int, ...], depth: int) -> Generator[None, None, Any]:
        """Puts lists in place of iterators, and makes keys strings. The rest is left to pydantic."""
        if type(value) in _ATOMS or isinstance(value, (str, Enum)):
            self._take(3 + len(value) if type(value) is str else 2)
            return value
        if depth > _TOO_DEEP:
            raise _refused(self._agent, "it is nested too deeply to be read, or circular")
        self._take(1)
        if isinstance(value, dict):
            return (yield from self._of_dict(value, path, depth))
        items: list[Any] = []
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            for number, each in enumerate(value):
                items.append((yield from self._unrolled(each, (*path, number), depth + 1)))
        elif isinstance(value, Iterator):
            for number, each in enumerate(value):
                yield
                items.append((yield from self._unrolled(each, (*path, number), depth + 1)))
        else:
            return value
        return items

    def _of_dict(
        self, value: Mapping[Any, Any], path: tuple[str | int, ...], depth: int
    ) -> Generator[None, None, dict[str, Any]]:
        items: dict[str, Any] = {}
        keys: dict[str, Any] = {}
        for key, each in value.items():
            name = self._clean.text(key) if type(key) is str else self._key(key)
            if name in keys:
                why = f"{_place(path)} has the keys {keys[name]!r} and {key!r}, which are one in JSON"
                raise _refused(self._agent, why)
            keys[name] = key
            self._take(len(name))
            items[name] = yield from self._unrolled(each, (*path, name), depth + 1)
        return items

    def _key(self, key: Any) -> str:
        try:
            (name,) = to_jsonable_python({key: None})
        except (PydanticSerializationError, ValueError) as error:
            raise _refused(self._agent, f"a key of type {type(key).__name__}: {describe(error)}") from error
        return str(name)

    def _take(self, size: int) -> None:
        """Takes room for at least so many bytes, a comma included."""
        self._room -= size
        if self._room < 0:
            raise _refused(self._agent, _TOO_MUCH)


class _Clean:
    """Replaces lone surrogates by U+FFFD, joins pairs into their character, and counts the replacements."""

    def __init__(self) -> None:
        self.replaced = 0

    def all_of(self, value: Any) -> Any:
        """The plain value with all of its text cleaned."""
        if type(value) is str:
            return self.text(value)
        if type(value) is dict:
            cleaned = {self.text(key): self.all_of(each) for key, each in value.items()}
            if len(cleaned) != len(value):
                raise ValueError("keys that are no text, and would be one")
            return cleaned
        return value if type(value) in _ATOMS else [self.all_of(each) for each in value]

    def text(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            cleaned = sound(text)
            self.replaced += cleaned.count("\N{REPLACEMENT CHARACTER}") - text.count("\N{REPLACEMENT CHARACTER}")
            return cleaned
        return text


_NO_NUMBERS: Final = {"nan": "NaN", "inf": "infinity", "-inf": "-infinity"}


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_too_long(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= 10**_DIGITS_MAX


def _may_have_a_long_number(text: bytes) -> bool:
    """Looks at blocks of half that length: one of them is full of digits, wherever a number that is too long begins."""
    block = _DIGITS_MAX // 2
    return any(text[at : at + block].isdigit() for at in range(0, len(text) - block + 1, block))


def _find(value: Any, is_it: Callable[[Any], bool]) -> tuple[str, Any] | None:
    """Finds the first value for which the test is true within a plain value that isn't circular, and its place."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while left:
        path, each = left.pop()
        if is_it(each):
            return _place(path), each
        items: Iterable[tuple[str | int, Any]] = ()
        if type(each) is dict:
            items = each.items()
        elif type(each) in (list, tuple):
            items = enumerate(each)
        left += [((*path, name), inner) for name, inner in reversed(list(items))]
    return None


def _place(path: tuple[str | int, ...]) -> str:
    """Writes a place as `output.rows[3].score`."""
    named = [f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part!r}]" for part in path]
    return "output" + "".join(named)
