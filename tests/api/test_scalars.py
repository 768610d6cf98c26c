"""Values at the bounds of what a whole number is, and words that are read as something else."""

from __future__ import annotations

import math

import pytest

from watchbill.api import scalars

pytestmark = pytest.mark.pure

TOP = 2**63


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (str(TOP - 1), TOP - 1),
        (str(TOP), 9223372036854776000),
        (str(-TOP), -TOP),
        (str(-TOP - 1), -9223372036854776000),
        (str(2 * TOP - 1), 18446744073709552000),
        (str(2 * TOP), 18446744073709552000),
        ("1e20", 10**20),
        ("1e21", 1e21),
        ("-1e21", -1e21),
        ("999999999999999900000.0", 999999999999999900000),
        ("0x7fffffffffffffff", TOP - 1),
        ("0xFFFFFFFFFFFFFFFF", 18446744073709552000),
        ("-0x8000000000000000", -TOP),
        ("+7", 7),
        ("+0b11", 3),
        ("-0B11", -3),
        ("0o17", 15),
        ("0O17", 15),
        ("017", 15),
        ("-017", -15),
        ("018", 18),
        ("0X1f", 31),
        ("1_0_0", 100),
        ("0.5_5", 0.55),
        (".5", 0.5),
        (".5_5", 0.55),
        ("5.", 5),
        ("+.5e1", 5),
        ("-1.5E-1", -0.15),
        ("0b" + "1" * 64, 18446744073709552000),
        ("0b" + "0" * 67 + "1", 1),
        ("1__", 1),
    ],
)
def test_a_number_is_what_the_api_server_stores(text: str, value: float) -> None:
    assert repr(scalars.plain(text)) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        *("0x10000000000000000", "-0x8000000000000001", "+0x8000000000000000", "0b" + "1" * 65, "0x", "0b2", "0o8"),
        *("1e400", "-1e400", "1.2.3", "e5", ".", "+", "-", "._5", "12:30", "2026-01-02", "0b" + "0" * 68 + "1"),
        *("yEs", "tRUE", "nULL", ".iNF", ".nAN", "+.nan", "<<", "=", "Oui"),
    ],
)
def test_what_is_no_number_and_no_such_word_is_text(text: str) -> None:
    assert scalars.plain(text) == text


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("y Y yes Yes YES true True TRUE on On ON", True),
        ("n N no No NO false False FALSE off Off OFF", False),
        ("~ null Null NULL", None),
        (".inf .Inf .INF +.inf +.Inf +.INF", math.inf),
        ("-.inf -.Inf -.INF", -math.inf),
    ],
)
def test_a_word_stands_for_its_value_in_three_spellings(words: str, value: object) -> None:
    assert [scalars.plain(word) for word in words.split()] == [value] * len(words.split())


def test_nothing_is_null_and_nan_is_no_number() -> None:
    assert scalars.plain("") is None
    for word in (".nan", ".NaN", ".NAN"):
        assert math.isnan(float(str(scalars.plain(word))))
