"""From its first instant: SIGTERM is heard whatever is being imported, and as PID 1 a worker leaves no zombies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from workshop import AGENTS, Crew, Make, agent

from waiting import until

NOBODY = "redis://127.0.0.1:1/0"
COMMANDS = {
    "pod": ["watchbill.worker"],
    "worker": ["watchbill", "worker", "some-crew"],
    "operator": ["watchbill", "operator"],
}
# Python imports this first of all.
WAITS = """
from pathlib import Path
from time import sleep
here = Path(__file__).parent
(here / "waits").touch()
while not (here / "goes-on").exists():
    sleep(0.01)
"""
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WATCHBILL_")}
    return (
        kept | {"WATCHBILL_REDIS_URL": NOBODY, "WATCHBILL_CREW": "default/some-crew", "KUBECONFIG": "/dev/null"} | more
    )


@contextmanager
def started(*arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", *arguments]
    small = 4096  # so that who writes can't be far ahead of who reads
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, pipesize=small, text=True, env=environment(**more)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("imported", [1, 40, 120, 250])
@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_ends_it_with_0_whatever_it_imports(command: str, imported: int) -> None:
    """`imported`: modules that were imported since it can hear."""
    with started("-X", "importtime", "-m", *COMMANDS[command]) as process:
        assert process.stderr is not None
        heard = -1
        for line in process.stderr:
            if heard >= 0 or line.split("|")[-1].strip() == "watchbill.init":
                heard += 1
            if heard >= imported:
                break
        assert heard == imported, "it ended before"
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(180) == 0, said[-2000:]


def test_sigterm_ends_it_at_once_with_0_while_it_waits_for_a_store_that_is_away() -> None:
    with started("-m", "watchbill.worker", WATCHBILL_GRACE_SECONDS="60") as process:
        assert process.stderr is not None
        assert any("waiting for the store" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0, process.stderr.read()


async def test_a_worker_whose_event_loop_an_agent_broke_ends_and_says_what_ran(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "closes_all", notes=False)])
    await crew.submit("t", "a")
    given = {"WATCHBILL_REDIS_URL": crew.url, "WATCHBILL_CREW": crew.name, "WATCHBILL_FOLDERS": str(AGENTS)}
    with started("-m", "watchbill.worker", **given) as process:
        await until(lambda: process.poll() is not None, what="its end")
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == -signal.SIGABRT
    assert re.search(
        r"^Fatal Python error: Aborted\n(.*\n)+Current thread .*\n(  File .*, line \d+ in .*\n)+", said, re.M
    ), said


# ---------------------------------------------------------------- as PID 1


def may_unshare() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, maybe while it was read
        return []


def below(pid: int) -> list[str]:
    """The commands of all that has this process above it; a zombie has one, too."""
    found = []
    for child in children(pid):
        with suppress(OSError):
            found += [Path(f"/proc/{child}/comm").read_text().strip(), *below(child)]
    return found


@contextmanager
def first_of_its_namespace(crew: Crew) -> Iterator[subprocess.Popen[str]]:
    """A worker's `unshare`; its PID 1 is the only child of that."""
    given = environment(WATCHBILL_REDIS_URL=crew.url, WATCHBILL_CREW=crew.name, WATCHBILL_FOLDERS=str(AGENTS))
    process = subprocess.Popen([*UNSHARE, sys.executable, "-P", "-m", "watchbill.worker"], env=given, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not may_unshare(), reason="a PID namespace needs root, or user namespaces")
async def test_as_pid_1_it_reaps_what_agents_leave_behind_and_ends_with_0(make_crew: Make) -> None:
    crew = await make_crew({"a": "LeavesProcess", "b": "LeavesProcessApart"})
    with first_of_its_namespace(crew) as unshare:
        tasks = [f"{name}{number}" for name in "ab" for number in range(5)]
        for task in tasks:
            await crew.submit(task, task[0])
        assert [result.output for result in await crew.results(tasks, 240)] == [7] * len(tasks), "its own, and not lost"
        (init,) = children(unshare.pid)
        await until(lambda: all(name.startswith("python") for name in below(init)), what="the end of agents' children")
        os.kill(init, signal.SIGTERM)
        await until(lambda: unshare.poll() is not None)
        assert unshare.returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="a PID namespace needs root, or user namespaces")
@pytest.mark.parametrize("image", ["operator", "worker"])
async def test_as_pid_1_of_its_image_it_ends_with_0_if_told_to_before_python_can_hear(
    image: str, tmp_path: Path
) -> None:
    found = re.findall(r"^ENTRYPOINT (.*)", (Path(__file__).parents[2] / "Dockerfile").read_text(), re.M)
    entrypoint = json.loads(found[image == "worker"])
    (tmp_path / "sitecustomize.py").write_text(WAITS)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = environment(PATH=path, PYTHONPATH=str(tmp_path))
    with subprocess.Popen(
        [*UNSHARE, *entrypoint, *(["operator"] if image == "operator" else [])], env=given
    ) as process:
        try:
            await until((tmp_path / "waits").exists)
            (first,) = children(process.pid)
            os.kill(first, signal.SIGTERM)
            (tmp_path / "goes-on").touch()
            await until(lambda: process.poll() is not None)
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.skipif(not may_unshare(), reason="a PID namespace needs root, or user namespaces")
async def test_as_pid_1_it_ends_as_its_worker_did(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    with first_of_its_namespace(crew) as unshare:
        (init,) = await until(lambda: children(unshare.pid))
        (worker,) = await until(lambda: children(init))
        os.kill(worker, signal.SIGKILL)
        await until(lambda: unshare.poll() is not None)
        assert unshare.returncode == 128 + signal.SIGKILL
