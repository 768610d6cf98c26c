"""The built-in tool `calculator`: arithmetic from text, within bounds, without ever running the text as code.

Not simpleeval, because: it bounds operands and not results, so a model could hold a worker up (`9**399999` has a
million bits, and `round(7**1000, -9999999)` takes half a minute); and it knows texts, comparisons and complex numbers,
which a wrapper as long as this would have to refuse.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

_MAX_LENGTH: Final = 500
_MAX_BITS: Final = 4096
"""Results beyond this many bits are refused before they are computed: no answer a person reads is longer."""

_BINARY: Final[Mapping[type[ast.operator], Callable[[int | float, int | float], int | float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., int | float]]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}
_CONSTANTS: Final[Mapping[str, float]] = {"e": math.e, "pi": math.pi}


def calculator(expression: str) -> int | float:
    """Evaluate an arithmetic expression.

    Knows + - * / // % **, parentheses, abs, max, min, round, sqrt, pi and e. Raises ValueError, with the reason,
    for anything else, and for results too large to be of use.

    Args:
        expression: For example `(3 + 4) * sqrt(2)`.
    """
    if len(expression) > _MAX_LENGTH:
        raise ValueError(f"the expression has {len(expression)} characters; at most {_MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is not an arithmetic expression") from None
    try:
        return _finite(_value(tree.body))
    except ZeroDivisionError:
        raise ValueError(f"{expression!r} divides by zero") from None
    except OverflowError:
        raise ValueError(f"{expression!r} has a result too large to represent") from None
    except RecursionError:
        raise ValueError("the expression is nested too deeply") from None


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _finite(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _call(name, [_value(arg) for arg in args])
    raise ValueError(
        f"{ast.unparse(node)!r} is not allowed; use numbers, + - * / // % **, parentheses, "
        f"{', '.join(_FUNCTIONS)}, {', '.join(_CONSTANTS)}"
    )


def _power(base: int | float, exponent: int | float) -> int | float:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    # Known before it is computed: |base| ** exponent has about this many bits.
    if whole and abs(base) > 1 and int(base).bit_length() * exponent > 2 * _MAX_BITS:
        raise ValueError(f"{base} ** {exponent} is too large")
    result: int | float | complex = base**exponent
    if isinstance(result, complex):
        raise ValueError(f"{base} ** {exponent} is not a real number")
    return _finite(result)


def _call(name: str, arguments: list[int | float]) -> int | float:
    if name == "round" and len(arguments) == 2:
        value, digits = arguments
        # Beyond these, rounding changes nothing a float can hold, or costs as much as a huge power.
        if not isinstance(digits, int) or abs(digits) > 400:
            raise ValueError(f"round takes a whole number of digits up to 400, not {digits}")
        return round(value, digits)
    try:
        # max(3) would want a list.
        return arguments[0] if name in {"max", "min"} and len(arguments) == 1 else _FUNCTIONS[name](*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}({', '.join(map(str, arguments))}): {error}") from None


def _finite(value: int | float) -> int | float:
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise ValueError("the result is too large")
    elif not math.isfinite(value):
        raise ValueError("the result is too large or not a number")
    return value
