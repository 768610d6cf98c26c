"""Values within outputs: their fields, comparisons of them, and what stands for the output of a step that failed. Pure.

An output that is text, and as a whole a JSON object or list, is taken for that. No text is searched for words.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from watchbill.api.modes import When
from watchbill.tasks import TaskResult

_SHOWN_MAX: Final = 80
_BOUNDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "atLeast": operator.ge,
    "lt": operator.lt,
    "atMost": operator.le,
}
MISSING: Final = object()
"""Stands for the output of a step that has none: it was skipped, or a loop comes to it later. It is nothing: no text,
no items, and no condition holds of it but that it is not there."""


class Unusable(ValueError):
    """A value is missing, or of the wrong type. The message says which, and why."""


def error(step: str, result: TaskResult) -> dict[str, Any]:
    """Returns the error value that a step that failed passes on in place of an output."""
    return {"error": {"step": step, "agent": result.agent_name, "message": result.error, "attempts": result.attempt}}


def data(output: Any) -> Any:
    """The output; a text that is a JSON object or list as what it says."""
    if isinstance(output, str) and output.strip()[:1] in ("{", "["):
        try:
            return json.loads(output)
        except (ValueError, RecursionError):
            return output
    return output


def field(output: Any, path: str | None, whose: str) -> Any:
    """The value at a path of an output, as in `review.score` or `items.0`; without a path the output. `whose` names the
    output in messages. Raises Unusable."""
    if not path:
        return output
    value = data(output)
    names = path.split(".")
    for number, name in enumerate(names):
        inner = MISSING
        if isinstance(value, Mapping):
            inner = value.get(name, MISSING)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            inner = value[int(name)]
        if inner is MISSING:
            at = ".".join(names[:number])
            where = f"{at!r} of the output of {whose}" if at else f"the output of {whose}"
            raise Unusable(f"{where} has no field {name!r}: it is {_kind(value)}")
        value = inner
    return value


def holds(condition: When, output: Any) -> bool:
    """Returns whether a condition over an output holds; `output` may be MISSING. Raises Unusable."""
    if output is MISSING:
        return condition.exists is False
    whose = repr(condition.step)
    if condition.exists is not None:
        try:
            field(output, condition.field, whose)
        except Unusable:
            return condition.exists is False
        return condition.exists is True
    value = field(output, condition.field, whose)
    if condition.eq is not None:
        return _is(value, condition.eq)
    if condition.ne is not None:
        return not _is(value, condition.ne)
    if condition.one_of is not None:
        return any(_is(value, text) for text in condition.one_of)
    if not _is_number(value):
        what = f"field {condition.field!r} of the output of {whose}" if condition.field else f"the output of {whose}"
        raise Unusable(f"{what} is {_kind(value)}, and no number can be compared with it")
    given = ((_BOUNDS[name], bound) for name, bound in condition.bounds().items() if bound is not None)
    return all(compare(value, bound) for compare, bound in given)


def _is(value: Any, text: str) -> bool:
    """Returns whether a value is what the text says: the same number, or shown by the same text."""
    if _is_number(value):
        with suppress(ValueError, RecursionError):
            if _is_number(number := json.loads(text)):
                return bool(value == number)
    return as_text(value) == text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: Any) -> str:
    """A value as it is put into a prompt, or shown to a person: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def truth(output: Any, path: str, whose: str) -> bool:
    """The boolean at a path of an output, which may be MISSING. Raises Unusable for anything else."""
    if output is MISSING:
        return False
    value = field(output, path, whose)
    if not isinstance(value, bool):
        raise Unusable(f"field {path!r} of the output of {whose} is {_kind(value)}, and neither true nor false")
    return value


def items(value: Any, what: str, most: int) -> list[Any]:
    """A value that must be a list of at most `most` items; `what` names it in messages. Raises Unusable."""
    found = data(value)
    if not isinstance(found, list):
        raise Unusable(f"{what} is {_kind(value)}, and no list")
    if len(found) > most:
        raise Unusable(f"{what} has {len(found)} items, and at most {most} are possible")
    return found


def _kind(value: Any) -> str:
    """The value in words, short enough for a message."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            text = value if len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]}…"
            return f"the text {text!r}"
        case int() | float():
            return f"the number {value}"
        case list():
            return f"a list of {len(value)}"
    listed = ", ".join(list(map(str, value))[:10])
    return f"an object with {listed}" if listed else "an empty object"
