"""The process of a worker or a command ends as Python promises, and takes no more time for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from select import select
from typing import IO, Any

import pytest
from test_worker_first_instant import environment
from workshop import Make

from waiting import until
from watchbill.init import _FLUSH_SECONDS
from watchbill.records import AgentDefinition
from watchbill.worker.__main__ import _ORDERLY_SECONDS

AGENT = """
import atexit, os, threading

class Part:
    def __del__(self, write=os.write):
        write(1, b"taken apart;")

PART = Part()
FILES = [open("TEXT", "w"), open("BYTES", "wb")]
atexit.register(os.write, 1, b"registered;")

def later():
    threading.main_thread().join()
    os.write(1, b"thread;")

class Agent:
    async def run(self, context):
        print("printed;", end="")
        FILES[0].write("text")
        FILES[1].write(b"bytes")
        threading.Thread(target=later).start()
        return "done"
"""


CREW = """
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {name: crew}
spec:
  agents:
    - {name: a, class: "parts:Agent"}
"""


def program(folder: Path) -> list[Path]:
    """Writes the agent's module there. Returns the files that it is to write."""
    written = [folder / "text", folder / "bytes"]
    (folder / "parts.py").write_text(AGENT.replace("TEXT", str(written[0])).replace("BYTES", str(written[1])))
    return written


async def test_it_ends_with_all_threads_and_handlers_but_takes_no_module_apart(make_crew: Make, tmp_path: Path) -> None:
    written = program(tmp_path)
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="parts:Agent")])
    given = {"WATCHBILL_REDIS_URL": crew.url, "WATCHBILL_CREW": crew.name, "WATCHBILL_FOLDERS": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "watchbill.worker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(**given)) as process:
        try:
            await crew.submit("t", "a")
            assert (await crew.results(["t"], 180))[0].output == "done"
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=180)
        finally:
            process.kill()
    assert process.returncode == 0
    assert sorted(said.decode().split(";")) == ["", "printed", "registered", "thread"]
    assert [file.read_text() for file in written] == ["text", "bytes"]


STOPPED = """
import atexit, os, signal, time

FILE = open("TEXT", "w")

def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)

atexit.register(stop)

class Agent:
    async def run(self, context):
        FILE.write("text")
        return "done"
"""


async def test_a_worker_that_gets_no_time_at_its_end_takes_it_later(make_crew: Make, tmp_path: Path) -> None:
    written = tmp_path / "text"
    (tmp_path / "parts.py").write_text(STOPPED.replace("TEXT", str(written)))
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="parts:Agent")])
    given = {"WATCHBILL_REDIS_URL": crew.url, "WATCHBILL_CREW": crew.name, "WATCHBILL_FOLDERS": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-P", "-m", "watchbill.worker"], env=environment(**given)) as process:
        try:
            await crew.submit("t", "a")
            assert (await crew.results(["t"], 180))[0].output == "done"
            process.send_signal(signal.SIGTERM)
            await until(lambda: b") T " in Path(f"/proc/{process.pid}/stat").read_bytes(), what="its end")
            await asyncio.sleep(_ORDERLY_SECONDS + 1)
            process.send_signal(signal.SIGCONT)
            assert process.wait(180) == 0
        finally:
            process.kill()
    assert written.read_text() == "text"


FULL = """
class Agent:
    async def run(self, context):
        global file
        file = open("PIPE", "w", buffering=2**20)
        file.write("x" * 2**19)
        return "done"
"""


async def test_a_worker_that_gets_no_time_while_it_writes_goes_on_later(make_crew: Make, tmp_path: Path) -> None:
    """As long as a file of an agent's thread may take, and longer."""
    os.mkfifo(pipe := tmp_path / "pipe")
    (tmp_path / "parts.py").write_text(FULL.replace("PIPE", str(pipe)))
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="parts:Agent")])
    given = {"WATCHBILL_REDIS_URL": crew.url, "WATCHBILL_CREW": crew.name, "WATCHBILL_FOLDERS": str(tmp_path)}
    with (
        open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as reader,
        subprocess.Popen([sys.executable, "-P", "-m", "watchbill.worker"], env=environment(**given)) as process,
    ):
        try:
            await crew.submit("t", "a")
            assert (await crew.results(["t"], 180))[0].output == "done"
            process.send_signal(signal.SIGTERM)
            await until(lambda: select([reader], [], [], 0)[0], what="that it writes")
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(_FLUSH_SECONDS + 1)
            process.send_signal(signal.SIGCONT)
            os.set_blocking(reader.fileno(), True)
            assert await asyncio.to_thread(reader.read) == "x" * 2**19
            assert process.wait(180) == 0
        finally:
            process.kill()


def test_a_command_that_runs_agents_ends_so_too(tmp_path: Path) -> None:
    written = program(tmp_path)
    (tmp_path / "crew.yaml").write_text(CREW)
    command = [sys.executable, "-P", "-m", "watchbill", "run", "crew.yaml", "x", "--ephemeral"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("WATCHBILL_")}
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert [done.stderr.count(f"{said};") for said in ("printed", "registered", "thread", "taken apart")] == [
        1,
        1,
        1,
        0,
    ]
    assert [file.read_text() for file in written] == ["text", "bytes"]


FILE = """
import os, threading

class Agent:
    async def run(self, context):
        global file
        file = open(int(os.environ["PIPE"]), "w", buffering=2**20)
        file.write("x" * 2**19)
        if context.prompt == "hold":
            threading.Thread(target=file.flush, daemon=True).start()
        return "done"
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], IO[str]]]]:
    """Runs a command whose agent writes to a pipe more than that holds. Returns it, and where the pipe is read."""
    (tmp_path / "parts.py").write_text(FILE)
    (tmp_path / "crew.yaml").write_text(CREW)
    with ExitStack() as stack:

        def run(prompt: str) -> tuple[subprocess.Popen[str], IO[str]]:
            reads, writes = os.pipe()
            pipe = stack.enter_context(open(reads))
            command = [sys.executable, "-P", "-m", "watchbill", "run", "crew.yaml", prompt, "--ephemeral"]
            given = {name: value for name, value in os.environ.items() if not name.startswith("WATCHBILL_")}
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env={**given, "PIPE": str(writes)},
                    pass_fds=[writes],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            os.close(writes)
            stack.callback(process.kill)
            return process, pipe

        yield run


def test_a_command_waits_for_a_slow_reader_of_a_file(run_file: Callable[..., Any]) -> None:
    process, pipe = run_file("plain")
    assert process.stdout.readline() == "done\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(12)  # longer than a thread may hold a file
    assert pipe.read() == "x" * 2**19
    said, problems = process.communicate(timeout=180)
    assert (process.returncode, said) == (0, ""), problems


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_waits_for_a_reader_at_its_end(
    run_file: Callable[..., Any], number: signal.Signals
) -> None:
    process, pipe = run_file("plain")
    assert process.stdout.readline() == "done\n"
    # It is deaf for a moment, between its loop and its last writes; and those don't end while nobody reads.
    assert select([pipe], [], [], 180)[0], "it never wrote"
    process.send_signal(number)
    assert process.wait(180) == -number


def test_a_thread_that_holds_a_file_does_not_keep_a_command(run_file: Callable[..., Any]) -> None:
    process, _ = run_file("hold")
    said, problems = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, "done\n")
    assert "_skip_the_rest" in problems, problems


def test_what_was_registered_before_a_command_began_runs_at_its_end(tmp_path: Path) -> None:
    """As coverage and tracers do."""
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.write, 2, b'registered;')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "watchbill", "version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "registered;")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_what_python_could_not_write_at_the_end_of_a_command_is_told(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stdout.write('held back')\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "watchbill", "status", "--state", "not-there"],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, "No space left on device" in done.stderr) == (120, True), done.stderr
