"""`version`, `crds`, help, and an install without the command line's extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from watchbill import __version__

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("run", "submit", "result", "status", "top", "events", "cancel", "interrupt", "resume", "dead", "worker"),
    *("workers", "drain", "crds", "version"),
)


def test_version_tells_what_runs(shell) -> None:
    text = shell.run("version").stdout
    assert text.startswith(f"watchbill {__version__} (Python {sys.version_info.major}.{sys.version_info.minor}.")
    assert json.loads(shell.run("version", "--output", "json").stdout)["watchbill"] == __version__
    assert yaml.safe_load(shell.run("version", "--output", "yaml").stdout)["python"].startswith("3.")


def test_crds_prints_what_is_committed_and_writes_files(shell) -> None:
    committed = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    printed = list(yaml.safe_load_all(shell.run("crds").stdout))
    assert [d["spec"]["names"]["kind"] for d in printed] == ["Crew", "Heartbeat"]

    assert shell.run("crds", "--output-dir", "there/below").returncode == 0
    assert {path.name: path.read_text() for path in (shell.folder / "there/below").iterdir()} == committed

    (shell.folder / "file").touch()
    refused = shell.run("crds", "--output-dir", "file")
    assert refused.returncode == 2
    assert "--output-dir: 'file'" in refused.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shell, command) -> None:
    done = shell.run(command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert command in shell.run("--help").stdout


def test_the_script_and_the_module_are_the_same(shell) -> None:
    script = Path(sys.executable).with_name("watchbill")
    done = subprocess.run([script, "version"], env=shell.env, cwd=shell.folder, capture_output=True, text=True)
    assert done.stdout == shell.run("version").stdout


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml"])
def test_without_the_extra_the_way_to_install_it_is_said(shell, missing) -> None:
    code = (
        "import importlib.util as u, sys; real = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a)\n"
        "import watchbill.__main__ as m; sys.argv = ['watchbill', 'version']; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=shell.folder, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{missing} not found" in done.stderr
    assert "pip install '.[cli]'" in done.stderr


def test_help_and_version_load_neither_redis_nor_the_service(shell) -> None:
    code = (
        "import sys; sys.argv = ['watchbill', sys.argv[1]]\n"
        "from watchbill.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'redis', 'aiohttp', 'watchbill.service', 'watchbill.settings'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    for argument in ("version", "--help"):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
