"""`version`, `crds`, help, and an install without the command line's extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from shell import Shell

from watchbill import __version__
from watchbill.errors import install

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("run", "submit", "result", "status", "top", "events", "cancel", "interrupt", "resume", "dead", "worker"),
    *("workers", "drain", "crds", "version"),
)


def test_version_tells_what_runs(shell: Shell) -> None:
    text = shell.run("version").stdout
    assert text.startswith(f"watchbill {__version__} (Python {sys.version_info.major}.{sys.version_info.minor}.")
    assert json.loads(shell.run("version", "--output", "json").stdout)["watchbill"] == __version__
    assert yaml.safe_load(shell.run("version", "--output", "yaml").stdout)["python"].startswith("3.")


def test_crds_prints_what_is_committed_and_writes_files(shell: Shell) -> None:
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
def test_every_command_has_help(shell: Shell, command: str) -> None:
    done = shell.run(command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


def test_help_lists_every_command(shell: Shell) -> None:
    done = shell.run("--help")
    assert done.returncode == 0
    assert [command for command in COMMANDS if command not in done.stdout] == []


def test_the_script_and_the_module_are_the_same(shell: Shell) -> None:
    script = Path(sys.executable).with_name("watchbill")
    done = subprocess.run([script, "version"], env=shell.env, cwd=shell.folder, capture_output=True, text=True)
    assert done.stdout == shell.run("version").stdout


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml"])
def test_without_the_extra_the_way_to_install_it_is_said(shell: Shell, missing: str) -> None:
    code = (
        "import importlib.util as u, sys; real = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a)\n"
        "import watchbill.__main__ as m; sys.argv = ['watchbill', 'version']; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=shell.folder, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{missing} not found" in done.stderr
    assert install("cli") in done.stderr


def test_help_and_version_load_neither_redis_nor_the_service(shell: Shell) -> None:
    code = (
        "import sys; sys.argv = ['watchbill', sys.argv[1]]\n"
        "from watchbill.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'redis', 'aiohttp', 'watchbill.local', 'watchbill.settings'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    for argument in ("version", "--help"):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_version_is_an_option_too_and_help_tells_every_exit_code(shell: Shell) -> None:
    assert shell.run("--version").stdout == shell.run("version").stdout
    told = " ".join(shell.run("--help").stdout.split("Exit codes:")[1].split())
    for code in ("0 ok", "1 the task failed", "2 wrong", "3 no store", "70 a bug", "130 after", "143 after", "141 "):
        assert code in told, code


def test_ctrl_c_before_anything_has_begun_shows_no_traceback(shell: Shell) -> None:
    early = shell.folder / "early"
    early.mkdir()
    (early / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"  # while it is imported
    )
    done = shell.run("status", env={"PYTHONPATH": str(early)})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_can_not_be_written_is_kept_and_that_is_said(shell: Shell, unbuffered: str) -> None:
    command = [sys.executable, "-m", "watchbill", "run", "crew.yaml", "x", "--id", "r1"]
    env = shell.env | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=env, cwd=shell.folder, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "error: stdout can't be written to: No space left on device." in done.stderr
    (advised,) = (line.partition("It is kept: ")[2] for line in done.stderr.splitlines() if "It is kept: " in line)
    again = subprocess.run(["bash", "-c", advised], env=shell.env, cwd=shell.folder, capture_output=True, text=True)
    assert again.stdout == "third did x\n", again.stderr


def test_a_result_that_nobody_reads_is_kept_and_that_is_said(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, "-m", "watchbill", "run", "crew.yaml", "x"]
        done = subprocess.run(command, env=shell.env, cwd=shell.folder, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 141
    assert "It is kept: " in done.stderr
    assert "Traceback" not in done.stderr


def test_in_an_ascii_locale_everything_is_read_as_utf_8(shell: Shell) -> None:
    text = (shell.folder / "crew.yaml").read_text()
    (shell.folder / "crew.yaml").write_text(f"# für µ\n{text}", encoding="utf-8")
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C"}
    done = shell.run("run", "crew.yaml", "naïve", "--ephemeral", env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "third did na\\xefve\n", "what the locale can't show is escaped, and nothing is lost"


@pytest.mark.parametrize("module", ["kopf", "kubernetes"])
def test_the_operator_without_its_extra_says_what_to_install(shell: Shell, module: str) -> None:
    early = shell.folder / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    done = shell.run("operator", env={"PYTHONPATH": str(early), "WATCHBILL_REDIS_URL": "redis://127.0.0.1:1"})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"The operator ({module} not found) needs an optional part" in done.stderr
    assert install("operator") in done.stderr


def test_closed_descriptors_are_taken_by_nothing_and_cost_no_work(shell: Shell) -> None:
    """As `>&-` of a shell leaves them. An event loop that got the number of one would end the process."""
    command = f"exec {sys.executable} -m watchbill"
    run = "run crew.yaml x --agent first"
    for what, code, said in (
        ("version >&-", 1, "error: stdout can't be written to"),
        (f"{run} >&-", 1, "error: stdout can't be written to"),
        (f"{run} <&- 2>&-", 0, ""),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} {what}"], env=shell.env, cwd=shell.folder, capture_output=True, text=True
        )
        assert (done.returncode, said in done.stderr) == (code, True), (what, done)
    assert done.stdout == "first did x\n"


def test_no_result_is_lost_for_want_of_a_reader_of_stderr(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, "-m", "watchbill", "run", "crew.yaml", "x"]
        done = subprocess.run(command, env=shell.env, cwd=shell.folder, stdout=subprocess.PIPE, stderr=pipe, text=True)
    assert (done.returncode, done.stdout) == (0, "third did x\n")
