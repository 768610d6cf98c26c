"""Replaces text that UTF-8 can't encode: cut emoji, names of files that aren't UTF-8. Pure.

JSON and Python can hold lone surrogates; HTTP and stores can't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

_Value = TypeVar("_Value")


def sound(value: _Value) -> _Value:
    """The value with U+FFFD for each lone surrogate in its text, lists and mappings; the same object if it has none."""
    return _sound(value)  # type: ignore[no-any-return]


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # two halves that belong together become a character
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if type(value) is dict:
        pairs = [(_sound(key), _sound(each)) for key, each in value.items()]
        old = [each for pair in value.items() for each in pair]
        return value if _same(old, [each for pair in pairs for each in pair]) else dict(pairs)
    if type(value) in (list, tuple):
        changed = [_sound(each) for each in value]
        return value if _same(value, changed) else type(value)(changed)
    return value


def _same(old: Iterable[Any], new: Iterable[Any]) -> bool:
    return all(before is after for before, after in zip(old, new, strict=True))
