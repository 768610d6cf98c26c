"""Checks of what callers give, and the JSON that is stored. Raises InvalidInput, which names the argument. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeGuard

from watchbill.errors import InvalidInput, Problem

SECONDS_MAX: Final = 1e9
"""A time span is at most so long (about 32 years): a longer one is a mistake, such as milliseconds."""


def text(value: object, field: str) -> str:
    """Returns a name or key: text that isn't empty."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(Problem(f"{value!r} is no name", "Give text that isn't empty.", path=field))
    if not is_text(value):
        raise InvalidInput(Problem(f"{value!r} is no text in UTF-8", "Use another name.", path=field))
    return value


def prefix(value: object, field: str = "key_prefix") -> str:
    """Returns the beginning of keys: text, which may be empty."""
    return "" if value == "" else text(value, field)


def texts(value: object, field: str) -> list[str]:
    """Returns names as a list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInput(Problem(f"{value!r:.40} is no list of names", "Give a list.", path=field))
    return [text(one, field) for one in value]


def is_text(value: object) -> TypeGuard[str]:
    """Returns whether this is text that Redis keeps as it is: half of a surrogate pair has no UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def seconds(value: object, field: str, *, least: float = 0.001) -> float:
    """Returns a time span in seconds, of at least `least`. A timedelta is one, too."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not least <= float(number) <= SECONDS_MAX:  # type: ignore[arg-type]
        fix = f"Give a number of seconds, from {least:g} to {SECONDS_MAX:,.0f}."
        raise InvalidInput(Problem(f"{value!r} is no such time span", fix, path=field))
    return float(number)  # type: ignore[arg-type]


def whole(value: object, field: str, *, least: int, most: int) -> int:
    """Returns a whole number between these two."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        fix = f"Give a whole number from {least} to {most:,}."
        raise InvalidInput(Problem(f"{value!r} is no such number", fix, path=field))
    return value


def function(value: object, field: str) -> Any:
    """Returns what can be called."""
    if not callable(value):
        raise InvalidInput(Problem(f"{value!r} can't be called", "Give a function of one argument.", path=field))
    return value


def to_json(value: object, field: str) -> str:
    """Returns the value as JSON that reads back as it was. Only tuples come back as something else: as lists."""
    try:
        found = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        key = _odd_key(value)
    except (TypeError, ValueError, RecursionError) as error:
        fix = "Give text, numbers, booleans, None, and lists and dicts of these."
        raise InvalidInput(Problem(f"the value can't be written as JSON: {error}", fix, path=field)) from None
    if key is not None:
        fix = "Give text as key: JSON has no other."
        raise InvalidInput(Problem(f"a dict has the key {key[0]!r}, which would come back as text", fix, path=field))
    try:
        found.encode()
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return found


def from_json(found: str, where: str) -> Any:
    """Returns what the JSON says. `where` names the place for the message."""
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        raise InvalidInput(Problem(f"{where} holds no JSON", "Read it as text.")) from None


def from_json_or_text(found: str) -> Any:
    """Returns what the JSON says, or the text itself where it is no JSON."""
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        return found


def plain(value: object, field: str) -> str | bytes | int | float:
    """Returns a value that is stored as it is: text, bytes or a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str | bytes) and not is_number:
        fix = "Give text, bytes or a number, or use set_json."
        raise InvalidInput(Problem(f"a {type(value).__name__} ({value!r:.40}) is no text", fix, path=field))
    if isinstance(value, str) and not is_text(value):
        raise InvalidInput(Problem(f"{value!r:.40} is no text in UTF-8", "Give it as bytes or JSON.", path=field))
    return value  # type: ignore[return-value]


def _odd_key(value: object) -> tuple[object] | None:
    """Returns a key that JSON would make text of, in a tuple, since None is one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                return (key,)
            if (odd := _odd_key(inner)) is not None:
                return odd
    elif isinstance(value, list | tuple):
        for inner in value:
            if (odd := _odd_key(inner)) is not None:
                return odd
    return None
