"""The blocks of README and docs/usage.md work: files are written, shell blocks run in order, as a newcomer would.

Blocks of make are run by .ci/run, and need a clone: here it is checked that they are the same commands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from watchbill import local

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(sh|yaml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str = "README.md") -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / page).read_text())


def test_every_make_command_of_the_readme_is_a_target_and_is_run_by_ci() -> None:
    commands = re.findall(r"^make (\w+)", "\n".join(text for kind, text in blocks() if kind == "sh"), re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()

    assert commands == ["demo", "test"]
    both = r"^test: check  .*\n\t@\$\(MAKE\) --no-print-directory rest$"  # CI runs these one after the other, too
    assert re.search(both, makefile, re.MULTILINE)
    for target in ("demo", "check", "rest"):
        assert f'make {target}"' in ci or f"make {target}\n" in ci
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_quickstart_works_as_it_is_written(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WATCHBILL_")}
    activated = Path(sys.executable).parent
    environment["PATH"] = f"{activated}:{environment['PATH']}"
    assert shutil.which("watchbill", path=environment["PATH"])
    outputs = []
    for kind, text in [*blocks(), *blocks("docs/usage.md")]:
        named = re.match(r"# (\S+\.(?:yaml|py))\n", text)
        if named:
            (tmp_path / named[1]).write_text(text)
        elif kind == "sh" and "make " not in text:
            script = text.replace(". .venv/bin/activate\n", "")
            done = subprocess.run(
                ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout)

    manifests = local.load([tmp_path / "crew.yaml", tmp_path / "reminder.yaml"])
    assert [h.name for h in manifests.heartbeats] == ["stand-up"]
    version, run, looked, from_python = outputs
    assert "0.1.0" in version
    assert "ship on Friday" in run
    assert "tell sales" in run
    assert '"status": "completed"' in looked
    assert "task_completed" in looked
    assert "completed" in from_python
    assert "rest" in from_python
