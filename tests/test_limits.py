"""Limits that keep the code readable: a file has at most 400 lines, a function at most 60 besides its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import long
from statements import statements

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("operator", "charts", "tests", "e2e", "bench")
FILE_LINES = 400
FUNCTION_LINES = 60
TOO_LONG = {
    "tests/store/queue_model.py": "one class, the model of the queue, and its parts",
    "tests/store/test_queue_machine.py": "one state machine with all its rules",
    "e2e/control_plane/test_chart.py": "one control plane, which is started for all of its tests",
}
"""Files above the limit, each with the reason why it is one."""
ONE_STORY = {
    "tests/store/test_crews.py:test_the_example_of_the_seed_runs_as_written": "the example, as written",
    "tests/worker/test_worker_health.py:test_the_metrics_are_those_of_what_really_happens": "one worker's every metric",
    "e2e/control_plane/test_operator_cluster.py:test_what_kopf_sees_becomes_keys_on_the_queue": "one run of kopf",
}
"""Functions above the limit, each with the reason why it is one."""


def modules() -> Iterator[tuple[str, str]]:
    """Each module's path in the repository, and its text."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text()


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines, from `def` to its end, without its docstring."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    assert function.end_lineno is not None
    assert first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - is_docstring * (first.end_lineno - first.lineno + 1)


def test_no_file_is_too_long() -> None:
    long = {name: lines for name, text in modules() if (lines := text.count("\n")) > FILE_LINES}
    assert {name: lines for name, lines in long.items() if name not in TOO_LONG} == {}
    assert set(TOO_LONG) - set(long) == set(), "these are short enough now, and need no exception"


def test_no_function_is_too_long() -> None:
    long = {
        f"{name}:{node.name}": length(node)
        for name, text in modules()
        for node in statements(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > FUNCTION_LINES
    }
    assert {name: lines for name, lines in long.items() if name not in ONE_STORY} == {}
    assert set(ONE_STORY) - set(long) == set(), "these are short enough now, and need no exception"


def test_the_files_that_run_first_are_there() -> None:
    assert set(long.FILES) - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()
