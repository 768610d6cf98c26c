"""A YAML value without quotes → the JSON that Kubernetes reads and stores for it. Pure.

Neither YAML 1.1 nor 1.2, but what Kubernetes' tools make of them: y and n are true and false, 010 is 8, 1_000 is a
thousand, 12:30 and 2026-01-02 are text, and what has no fraction is a whole number, however it was written.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

Scalar = str | int | float | bool | None

TAG: Final = "tag:yaml.org,2002:"
STRING: Final = f"{TAG}str"
FLOAT: Final = f"{TAG}float"
MERGE: Final = f"{TAG}merge"


def _spelled(*words: str) -> list[str]:
    return [spelling for word in words for spelling in (word, word.title(), word.upper())]


_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(_spelled("y", "yes", "true", "on"), True),
    **dict.fromkeys(_spelled("n", "no", "false", "off"), False),
    **dict.fromkeys(("", "~", *_spelled("null"))),
    **dict.fromkeys([sign + word for sign in ("", "+") for word in (".inf", ".Inf", ".INF")], math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INT: Final = re.compile(r"([-+]?)(?:0[bB]([01]+)|0[oO]?([0-7]+)|0[xX]([0-9a-fA-F]+)|([0-9]+))")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BETWEEN_DIGITS: Final = re.compile(r"(?<=[0-9])_(?=[0-9])")
_LONGEST_INT: Final = 70
"""Longer than 64 digits of base 2: nothing above is a whole number, and reading it could take long."""
_INT64, _UINT64, _EXPONENT_FROM = 2**63, 2**64, 1e21


def plain(text: str) -> Scalar:
    """Returns the value of a text. Infinities and NaN come as such, though JSON doesn't have them."""
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] not in "+-.0123456789":
        return text
    digits = _BETWEEN_DIGITS.sub("", text) if text[0] == "." else text.replace("_", "")
    if (whole := _whole(digits)) is not None:
        return whole if -_INT64 <= whole < _INT64 else _stored(float(whole))
    if not _FLOAT.fullmatch(digits) or math.isinf(number := float(digits)):
        return text
    return _stored(number)


def tag_of(value: Scalar) -> str:
    """Returns YAML's tag of a value."""
    return TAG + ("null" if value is None else type(value).__name__)


def _whole(digits: str) -> int | None:
    """Returns the integer; None where it doesn't fit into 64 bits, or into 63 and a sign."""
    found = _INT.fullmatch(digits)
    if found is None or len(digits) > _LONGEST_INT:
        return None
    sign, *by_base = found.groups()
    value = next(int(sign + part, base) for part, base in zip(by_base, (2, 8, 16, 10), strict=True) if part)
    return value if -_INT64 <= value < (_INT64 if sign else _UINT64) else None


def _stored(number: float) -> int | float:
    """The number after its way through the API server, which writes no point and no exponent where it needs none."""
    if number.is_integer() and abs(number) < _EXPONENT_FROM:
        return int(Decimal(repr(number)))
    return number
