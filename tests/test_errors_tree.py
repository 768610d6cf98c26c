"""One tree of errors: all that Watchbill raises on purpose stands in errors.py, and in the picture at its top."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import watchbill
from statements import statements
from watchbill import errors
from watchbill.errors import WatchbillError

pytestmark = pytest.mark.pure

PACKAGE = Path(watchbill.__file__).parent


def tree() -> dict[str, type[WatchbillError]]:
    """Name → class of all errors that errors.py declares."""
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, WatchbillError) and kind.__module__ == errors.__name__
    }


def test_every_error_is_declared_in_one_module() -> None:
    known = tree()
    elsewhere = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in statements(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and path != PACKAGE / "errors.py"
        if any(ast.unparse(base).rpartition(".")[2] in known for base in node.bases)
    ]
    assert elsewhere == []


def test_the_picture_shows_the_tree() -> None:
    drawn: list[tuple[str, str]] = []
    parents = ["WatchbillError"]
    for indent, name in re.findall(r"^([│ ]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        del parents[len(indent) // 4 + 1 :]
        drawn.append((name, parents[-1]))
        parents.append(name)
    assert sorted(drawn) == sorted(
        (name, kind.__bases__[0].__name__) for name, kind in tree().items() if kind is not WatchbillError
    )
