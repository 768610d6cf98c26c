"""The calculator at its very bounds."""

from __future__ import annotations

import pytest

from watchbill.agents.calculator import calculator

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 ** 4095", 2**4095),
        ("2 ** 4094 * 2", 2**4095),
        ("0 ** 5", 0),
        ("(-1) ** 99999999", -1),
        ("(-2) ** 3", -8),
        ("4 ** 0.5", 2.0),
        ("min(4)", 4),
        ("max(4)", 4),
        ("max(1, 2)", 2),
        ("min(1, 2)", 1),
        ("round(12345, -2)", 12300),
        ("round(1.5, 400)", 1.5),
        ("round(1, -400)", 0),
        ("round(2.7)", 3),
        ("abs(-2) - -2 + +2", 6),
        ("7 % 4 - 7 // 4 * 1 / 1", 2.0),
        ("e + pi", 5.859874482048838),
        ("1" * 500, int("1" * 500)),
    ],
)
def test_what_is_within_its_bounds_is_computed(expression: str, result: float) -> None:
    assert calculator(expression) == result


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("2 ** 4096", "the result is too large"),
        ("2 ** 4095 * 2", "the result is too large"),
        ("1" * 501, "the expression has 501 characters; at most 500 are allowed"),
        ("2 ** 4097", "2 ** 4097 is too large"),
        ("3 ** 4096", "the result is too large"),
        ("3 ** 4097", "3 ** 4097 is too large"),
        ("(-2) ** 9999", "-2 ** 9999 is too large"),
        ("(-8) ** 0.5", "-8 ** 0.5 is not a real number"),
        ("1 / 0", "'1 / 0' divides by zero"),
        ("2.0 ** 9999", "'2.0 ** 9999' has a result too large to represent"),
        ("1e308 * 10", "the result is too large or not a number"),
        ("1 +", "'1 +' is not an arithmetic expression"),
        ("round(1, 401)", "round takes a whole number of digits up to 400, not 401"),
        ("round(1, -401)", "round takes a whole number of digits up to 400, not -401"),
        ("round(1, 2.0)", "round takes a whole number of digits up to 400, not 2.0"),
        ("sqrt(-1)", "sqrt(-1): math domain error"),
        (
            "True",
            "'True' is not allowed; use numbers, + - * / // % **, parentheses, abs, max, min, round, sqrt, e, pi",
        ),
    ],
    ids=range(17),
)
def test_what_is_beyond_them_is_refused_with_its_reason(expression: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        calculator(expression)
    assert str(refused.value) == told
