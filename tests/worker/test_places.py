"""Where an agent failed, in a few words."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchbill.errors import RetryAfter, ToolError
from watchbill.worker.execution import places


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
            error.__traceback__ = error.__traceback__.tb_next
        return error
    raise AssertionError("it didn't raise")


def code(path: Path, source: str) -> dict[str, Any]:
    """What a file of this content defines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    found: dict[str, Any] = {"json": json}
    exec(compile(path.read_text(), str(path), "exec"), found)
    return found


AGENT = """\
def run(data):
    return helper(data)

def helper(data):
    return json.loads(data)["user"]

def within(error):
    raise error

def tool(error):
    try:
        helper("{}")
    except KeyError as cause:
        raise error from cause

class Broken(Exception):
    def __getattribute__(self, name):
        raise RuntimeError("no")
"""


def test_the_last_frame_of_own_code_is_told_not_a_library_s(tmp_path: Path) -> None:
    file = tmp_path / "agents.py"
    made = code(file, AGENT)
    assert places.marked("KeyError: 'user'", raised(lambda: made["run"]("{}"))) == (
        f"KeyError: 'user' ({file}:5, in helper)"
    )
    assert places.marked("J: bad\nmore", raised(lambda: made["run"]("{"))) == f"J: bad ({file}:5, in helper)\nmore"


def test_of_an_installed_agent_its_own_package_is_told(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "site-packages"
    library = code(packages / "library" / "it.py", "def fails():\n    raise OSError('away')\n")
    agent = code(packages / "agents" / "mine.py", "def run(call):\n    call()\n")
    error = raised(lambda: agent["run"](library["fails"]))
    assert places.marked("OSError: away", error) == f"OSError: away ({packages}/agents/mine.py:2, in run)"


def test_what_is_raised_on_purpose_has_no_place_but_a_tool_s_failure_has_its_cause_s(tmp_path: Path) -> None:
    file = tmp_path / "agents.py"
    made = code(file, AGENT)
    busy = RetryAfter("busy", seconds=1)
    assert places.marked("RetryAfter: busy", raised(lambda: made["within"](busy))) == "RetryAfter: busy"
    library = code(tmp_path / "lib" / "site-packages" / "models" / "it.py", "def calls(call):\n    call()\n")
    error = raised(lambda: library["calls"](lambda: made["tool"](ToolError("tool 'x' failed"))))
    assert places.marked("it", error) == f"it ({file}:5, in helper)"
    cause = ToolError("tool 'x' failed")
    cause.__cause__ = raised(lambda: made["run"]("{}"))
    assert places.marked("it", cause) == f"it ({file}:5, in helper)"


def test_of_a_group_the_first_is_told(tmp_path: Path) -> None:
    file = tmp_path / "agents.py"
    made = code(file, AGENT)
    group = ExceptionGroup("g", [raised(lambda: made["run"]("{}")), OSError("another")])
    assert places.marked("ExceptionGroup: g (2 sub-exceptions)", group) == (
        f"ExceptionGroup: g (2 sub-exceptions); the first: KeyError: 'user' ({file}:5, in helper)"
    )


def test_without_own_frames_and_for_objects_that_can_not_be_asked_the_text_stays(tmp_path: Path) -> None:
    assert places.marked("KeyError: 1", KeyError(1)) == "KeyError: 1"
    made = code(tmp_path / "agents.py", AGENT)
    assert places.marked("Broken", made["Broken"]()) == "Broken"


def test_a_place_below_where_the_process_began_is_relative(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("def run():\n    return {}['user']\n")
    program = (
        "import os, sys; sys.path.insert(0, ''); import agents\nfrom watchbill.worker.execution import places\n"
        "os.chdir('/')\n"
        "try: agents.run()\nexcept KeyError as error: print(places.marked('it', error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "it (agents.py:2, in run)\n"
