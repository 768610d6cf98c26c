"""How pytest collects the tests, and in which order they run: hooks, which conftest.py takes up."""

from __future__ import annotations

import gc
import re
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import long

_ALL_PURE: Final = re.compile(r"^pytestmark = pytest\.mark\.pure$", re.MULTILINE)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: Python need not look there for garbage, now or during the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Has `-m pure` import no file without pure tests, and `-m "not pure"` none that has no others."""
    if not collection_path.match("test_*.py"):
        return None
    match config.option.markexpr:
        case "pure":
            return None if _may_have_pure(collection_path) else True
        case "not pure":
            return True if _ALL_PURE.search(collection_path.read_text()) else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, pure tests last: the quick ones fill up the time in which the last of the others end."""

    def order(item: pytest.Item) -> tuple[int, bool]:
        is_pure = item.get_closest_marker("pure") is not None
        if is_pure and not _may_have_pure(item.path):
            raise pytest.UsageError(f"`-m pure` does not find {item.nodeid}: mark it in its own file")
        return long.ORDER.get(item.path.name, len(long.ORDER)), is_pure

    items.sort(key=order)


@cache
def _may_have_pure(path: Path) -> bool:
    """Whether the file, or a fixture of its folder, marks tests as pure."""
    fixtures = path.parent / "conftest.py"
    return "mark.pure" in path.read_text() or (path != fixtures and fixtures.exists() and _may_have_pure(fixtures))
