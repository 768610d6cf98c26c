"""Modules that a test imports into its own process are forgotten with it: the next has others of the same names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def modules_below(folder: Path) -> Iterator[None]:
    """Forgets at its end what was imported meanwhile from below this folder."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
