"""The classes have the methods that the document of seed 002 shows, and the programs of docs/network.md run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ports import free_ports
from watchbill import connection, network

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "tests" / "seeds" / "002.txt").read_text()
PAGE = (ROOT / "docs" / "network.md").read_text()
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = CODE.findall(PAGE)
FROM_THE_ENVIRONMENT = {"host": "localhost", "port": 6379}
"""Defaults of the document that REDIS_HOST and REDIS_PORT can change here, so that the signature says None."""


def methods_of_the_seed() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(class, method) of each method in the document's code."""
    return [
        (made.name, method)
        for block in CODE.findall(SEED)
        for made in ast.parse(block).body
        if isinstance(made, ast.ClassDef)
        for method in made.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_seed_shows_two_classes() -> None:
    assert {name for name, _ in methods_of_the_seed()} == {"RedisStream", "RedisCache"}
    assert len(methods_of_the_seed()) == 13


@pytest.mark.pure
@pytest.mark.parametrize(("owner", "shown"), methods_of_the_seed(), ids=lambda value: getattr(value, "name", value))
def test_a_method_takes_what_the_seed_shows(owner: str, shown: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    method = getattr(getattr(network, owner), shown.name)
    ours = inspect.signature(method).parameters
    names = [argument.arg for argument in shown.args.args]
    values = [ast.literal_eval(default) for default in shown.args.defaults]

    positional = [name for name, given in ours.items() if given.kind is given.POSITIONAL_OR_KEYWORD]
    assert positional == names
    defaults = {name: ours[name].default for name in names if ours[name].default is not inspect.Parameter.empty}
    documented = dict(zip(names[len(names) - len(values) :], values, strict=True))
    assert {name: FROM_THE_ENVIRONMENT.get(name, value) for name, value in defaults.items()} == documented
    is_async = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
    assert is_async == isinstance(shown, ast.AsyncFunctionDef)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
async def test_a_program_of_the_page_runs_as_written(
    number: int, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await private_redis()
    (port,) = free_ports(1)
    async with connection.connected(server.url) as client:
        await client.config_set("bind", "127.0.0.1")
        await client.config_set("port", port)
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("REDIS_PORT", str(port))
        await asyncio.to_thread(exec, compile(PROGRAMS[number], "program", "exec"), {"__name__": "__main__"})
        for database in (0, 1):
            await client.execute_command("SELECT", database)
            assert [key for key in await client.keys("*") if ":answer:" not in key] == []
