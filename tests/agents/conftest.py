"""Folders of agents that leave no trace in this process, and an environment without anybody's keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import forgetting

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_keys_and_no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.endswith(("_API_KEY", "_proxy", "_PROXY")) or name.startswith(("OPENAI_", "ANTHROPIC_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """`write("team", agents="...")` makes a folder with `agents.py`. What is imported from there is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def folder(name: str, **modules: str) -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        for module, text in modules.items():
            (path / f"{module}.py").write_text(dedent(text))
        return path

    with forgetting.modules_below(tmp_path):
        yield folder
