"""Processes that open private stores, and what is left of them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import forks
from watchbill import embedded, state_folder
from watchbill.embedded import EmbeddedStore

OWNER = Path(__file__).with_name("store_owner.py")


@dataclass
class Opened:
    """A process that has opened a store, and what it said of it."""

    process: subprocess.Popen[str]
    url: str
    owner: bool
    pids: list[int]
    folder: Path
    child: int | None

    def end(self, how: signal.Signals) -> None:
        """To the whole process group, as terminals and supervisors do."""
        os.killpg(self.process.pid, how)
        self.process.wait(180)


class Children:
    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.pids: set[int] = set()

    def start(self, folder: Path | None, *options: str) -> subprocess.Popen[str]:
        ours, theirs = os.pipe()
        with os.fdopen(theirs, "w") as out, open(os.devnull, "w") as err:
            process = forks.start(
                [OWNER, "ephemeral" if folder is None else str(folder), *options],
                stdout=out,
                stderr=err,
                env=os.environ,
                start_new_session=True,  # a process group, as that of a terminal, to which Ctrl-C goes
            )
        process.stdout = os.fdopen(ours)
        self.processes.append(process)
        return process

    def opened(self, process: subprocess.Popen[str]) -> Opened:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        self.pids.update(said["pids"])
        return Opened(process, said["url"], said["owner"], said["pids"], Path(said["folder"]), said["child"])

    def open(self, folder: Path | None, *options: str) -> Opened:
        return self.opened(self.start(folder, *options))


def alive(pid: int) -> bool:
    """A zombie is not: it only waits for its parent to take note."""
    if sys.platform != "linux":
        return not ps(pid, "stat").startswith(("Z", "nothing"))
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not state.rpartition(") ")[2].startswith(("Z", "X"))


def ps(pid: int, field: str) -> str:
    said = subprocess.run(["ps", "-ww", "-o", f"{field}=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "nothing"


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def all_gone(pids: list[int]) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids))


def has_ended_by_itself(folder: Path) -> bool:
    """Whether the server there took less than the few seconds after which it is killed, and then leaves its socket."""
    return "bye bye" in (folder / embedded.LOG).read_text()


def server_pid(store: EmbeddedStore) -> int:
    assert store._server is not None
    return store._server.pid


def watchdog_pid(store: EmbeddedStore) -> int:
    assert store._watchdog is not None
    return store._watchdog.pid


def lock_is_free(folder: Path) -> bool:
    with (folder / state_folder.LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
