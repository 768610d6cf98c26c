"""What a person is advised to install: something that exists."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from watchbill import installation


@pytest.fixture
def from_(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Makes this installation one that came from there."""

    class Distribution:
        origin: object = None

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if self.origin is None else json.dumps(self.origin)

    def come(origin: object) -> None:
        Distribution.origin = origin
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())

    return come


def test_an_editable_checkout_is_named_as_pip_wants_it(from_: Callable[[object], None], tmp_path: Path) -> None:
    folder = tmp_path / "a place"
    folder.mkdir()
    from_({"url": folder.as_uri(), "dir_info": {"editable": True}})
    assert shlex.split(installation.command("llm")) == ["pip", "install", "-e", f"{folder}[llm]"]
    from_({"url": folder.as_uri(), "dir_info": {}})
    assert shlex.split(installation.command("llm")) == ["pip", "install", f"{folder}[llm]"]


def test_a_wheel_and_a_repository_are_named(from_: Callable[[object], None], tmp_path: Path) -> None:
    wheel = tmp_path / "watchbill-0.1.0-py3-none-any.whl"
    wheel.touch()
    from_({"url": wheel.as_uri(), "archive_info": {}})
    assert installation.command("cli") == f"pip install '{wheel}[cli]'"
    from_({"url": "https://git.test/w", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
    assert installation.command("cli") == "pip install 'watchbill[cli] @ git+https://git.test/w@abc'"


@pytest.mark.parametrize("origin", [None, {"url": "file:///nowhere/any/more", "dir_info": {}}, {}, []])
def test_where_nothing_is_known_the_checkout_is_named(from_: Callable[[object], None], origin: object) -> None:
    from_(origin)
    assert installation.command("cli") == "pip install '.[cli]' in a checkout of Watchbill"
