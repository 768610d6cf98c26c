"""Is this text that a store can take? Asked of every text that comes in by the client's doors. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from watchbill.errors import InvalidInput, Problem

_FIX: Final = "Give UTF-8 text: text.encode('utf-8', 'replace').decode() makes ? of what is none."
_INPUT_FIX: Final = "Give it as UTF-8, or as an input, which may be any bytes (surrogateescape)."


def check(needed: Collection[str] = (), /, **given: object) -> None:
    """`given`: argument → value; None is not given, and wrong for those `needed`. Raises InvalidInput, which names
    those that are no text."""
    if found := list(problems(given, needed=needed)):
        raise InvalidInput(found)


def problems(
    given: Mapping[str, object], most_bytes: int | None = None, *, needed: Collection[str] = ()
) -> Iterator[Problem]:
    """The problems that `check` raises; also those of texts that are longer than `most_bytes`."""
    for name, value in given.items():
        if value is None and name not in needed:
            continue
        if not isinstance(value, str):
            yield Problem(f"{repr(value)[:80]} can't be used: it is no text", "Give a str.", path=name)
            continue
        try:
            size = len(value) if value.isascii() else len(value.encode())
        except UnicodeEncodeError as error:
            reason = f"this is no text: half a character (a lone surrogate) at position {error.start}"
            yield Problem(reason, _INPUT_FIX if name == "prompt" else _FIX, path=name)
        else:
            if most_bytes is not None and size > most_bytes:
                yield Problem(f"this has {size} bytes; the limit is {most_bytes}", "Shorten it.", path=name)
