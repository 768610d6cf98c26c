"""A person's shell, as far as the command line can tell: a folder of one's own, real processes, real stores."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import forks
from waiting import whole_lines

CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {{name: {name}}}
spec:
  agents:
    - {{name: first, class: "cli_agents:Note"}}
    - {{name: second, class: "cli_agents:Note"}}
    - {{name: third, class: "cli_agents:Note"}}
"""

AGENTS = '''\
"""Agents that leave their traces beside the YAML, and wait there for what a test allows."""

import asyncio
import os
import threading
from pathlib import Path

HERE = Path(__file__).parent


def note(text):
    with (HERE / "notes").open("a") as file:
        file.write(text + "\\n")


class Note:
    """Notes when it starts and ends; in between waits until the file `hold-NAME`, if there is one, is gone."""

    async def run(self, context):
        name = context.agent.agent_id
        note(f"{name} started")
        print("an agent prints")
        await context.emit(f"{name} says hello")
        while (HERE / f"hold-{name}").exists():
            await asyncio.sleep(0.02)
        note(f"{name} ended")
        return f"{name} did {context.task.prompt}"


class Flaky:
    """Fails until the file `fixed` is there."""

    async def run(self, context):
        note(f"{context.task.task_id} tried")
        if not (HERE / "fixed").exists():
            raise OSError("the database is away")
        return "done at last"


class Leaves:
    """Calls what never ends, in a thread of the event loop's; waits for it if it was asked to."""

    async def run(self, context):
        note("left it")
        call = asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
        if context.task.prompt == "wait":
            await call
        return "left it"


async def forgot(context):
    context.task.prompt.upper()


class Fail:
    """Fails, and quotes the password that it was given."""

    async def run(self, context):
        raise ValueError("no luck with " + os.environ.get("SOME_PASSWORD", "it"))
'''


class Shell:
    """Runs `watchbill` in a folder with a crew in it, and remembers what it started."""

    def __init__(self, folder: Path, commands: Path) -> None:
        """`commands`: a folder with the commands that were started from nothing by any process that runs tests."""
        self.folder = folder
        self._commands = commands
        self._started: list[subprocess.Popen[str]] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("WATCHBILL_")} | {"COLUMNS": "200"}
        (folder / "cli_agents.py").write_text(AGENTS)
        self.write_crew("notes")

    def write_crew(self, name: str) -> None:
        (self.folder / "crew.yaml").write_text(CREW.format(name=name))

    def hold(self, agent: str) -> None:
        (self.folder / f"hold-{agent}").touch()

    def let_go(self, agent: str) -> None:
        (self.folder / f"hold-{agent}").unlink()

    def notes(self) -> list[str]:
        return whole_lines(self.folder / "notes")

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 240,
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        with contextlib.ExitStack() as files:
            given, out, err = (files.enter_context(tempfile.TemporaryFile("w+", newline="")) for _ in range(3))
            given.write(stdin or "")
            given.seek(0)
            process = self._start(arguments, env or {}, stdin=given, stdout=out, stderr=err)
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts it in a session of its own, with output to `read`."""
        number = len(self._started)
        with (self.folder / f"out-{number}").open("w") as out, (self.folder / f"err-{number}").open("w") as err:
            process = self._start(arguments, env or {}, stdout=out, stderr=err, start_new_session=True)
        self._started.append(process)
        return process

    def _start(self, arguments: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
        """Forks it, but for the first process of each command: so a module that is used and not imported is missed."""
        command = ["-m", "watchbill", *arguments]
        options |= {"cwd": self.folder, "env": {**self.env, **env}}
        if "--help" in arguments or not self._is_first(arguments[:1]):  # the former runs no command
            return forks.start(command, **options)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([sys.executable, *command], text=True, **options)

    def _is_first(self, command: Sequence[str]) -> bool:
        try:
            (self._commands / quote(" ".join(command), safe="")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def on_terminal(self, *arguments: str, typed: bytes) -> tuple[int, str]:
        """Runs it with a terminal as its stdin, and types once it asks. Its exit code, and what it said on stderr."""
        leader, follower = pty.openpty()
        error, its_error = os.pipe()
        command = ["-m", "watchbill", *arguments]
        streams: dict[str, Any] = {"stdin": follower, "stderr": its_error}
        with Path(os.devnull).open("w") as nothing:
            process = forks.start(
                command, cwd=self.folder, env=self.env, stdout=nothing, start_new_session=True, **streams
            )
        os.close(follower)
        os.close(its_error)
        try:
            with os.fdopen(error) as stderr:
                said = ""
                while typed and "[y/N]" not in said:
                    line = stderr.readline()
                    assert line, said
                    said += line
                os.write(leader, typed)
                said += stderr.read()
            return process.wait(180), said
        finally:
            process.kill()
            process.wait()
            os.close(leader)

    def read(self, process: subprocess.Popen[str], stream: str = "err") -> str:
        """What a started one has written so far."""
        return (self.folder / f"{stream}-{self._started.index(process)}").read_text()

    def servers(self) -> list[int]:
        """Processes whose command line names this folder and that we didn't start: servers and their watchdogs."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().decode(errors="replace")
            except OSError:
                continue
            pid = int(entry.parent.name)
            if str(self.folder) in command and pid not in {p.pid for p in self._started}:
                found.append(pid)
        return found

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(condition: Callable[[], object], seconds: float = 180, explain: Callable[[], object] = str) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(explain())
        time.sleep(0.02)
