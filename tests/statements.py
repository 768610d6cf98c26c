"""The statements of Python code, without the expressions in them, which are most of its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Attributes of statements, and of their parts, that hold other statements."""


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yields each statement below a module or a statement, however deep."""
    for block in _BLOCKS:
        for inner in getattr(node, block, ()):
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)
