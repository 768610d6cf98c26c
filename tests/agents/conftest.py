"""Folders of agents that leave no trace in this process, and an environment without anybody's keys."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import httpcore2
import pytest

import forgetting

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_keys_and_no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.endswith(("_API_KEY", "_proxy", "_PROXY")) or name.startswith(("OPENAI_", "ANTHROPIC_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Has each client of HTTPX use the same certificates of this machine: to read them takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


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
