"""The operator, a store and workers as processes, for tests on a bare control plane.

Each is a child of the test: started by it, ended by it, by its pid. Who the operator is at the
API server, its kubeconfig says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from e2e.cluster import machine
from watchbill import local_server

STOP_SECONDS = 180.0
STORE_SECONDS = 180.0
FORKED_WITH = ("watchbill.cli.operator", "watchbill.controller.operator", "watchbill.worker.shift")
"""Operators and workers import these; forks have them already."""


class Process:
    """One of our programs; its log is in `folder`, and goes on over a restart."""

    def __init__(self, words: Sequence[str], folder: Path, name: str, environment: dict[str, str]) -> None:
        self.log = folder / f"{name}.log"
        self._forked = False
        own = {key: value for key, value in os.environ.items() if not key.startswith(("WATCHBILL_", "KUBE"))}
        self._environment = {**own, **environment}
        self._command = [sys.executable, "-m", *words]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(f"--- the end of {self.log.name}:", *self.said()[-30:], sep="\n")

    def forked(self) -> Self:
        """Starts as the fork of a process that has imported all (tests/forks.py)."""
        self._forked = True
        return self

    def start(self) -> Self:
        with self.log.open("ab") as log:
            if self._forked:
                import forks  # benches, which don't fork, don't find it

                arguments = self._command[1:]
                self._process = forks.start(
                    arguments, stdout=log, stderr=log, env=self._environment, modules=FORKED_WITH
                )
                return self
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def kill(self) -> None:
        """kill -9; nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> int:
        """SIGTERM. Returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        self._process = None
        return code

    def stop(self) -> None:
        """It stands still, as on a frozen machine."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Started, and not ended by the test."""
        return self._process is not None

    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def said(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()


def operator(kubeconfig: Path, url: str, folder: Path, *, name: str = "operator", **settings: str) -> Process:
    """Not yet started. `name`: of its log. `settings`: WATCHBILL_* variables, in lower case and without the prefix."""
    given = {"redis_url": url, "log_level": "INFO", **settings}
    environment = {f"WATCHBILL_{key.upper()}": value for key, value in given.items()}
    return Process(["watchbill", "operator"], folder, name, {"KUBECONFIG": str(kubeconfig), **environment})


def kept_lease(process: Process) -> bool:
    """The operator has told that it could not renew or release the Lease, which it tries for seconds. So the Lease
    lasts until its time is over."""
    return any("not be renewed in time" in line or "can't be released" in line for line in process.said())


def worker(crew: str, url: str, folder: Path, *, name: str = "", **settings: str) -> Process:
    """A worker of the crew (namespace/name), which the control plane has no node for. Not yet started. `name`: of its
    log."""
    given = {"redis_url": url, "crew": crew, "log_level": "INFO", **settings}
    environment = {f"WATCHBILL_{key.upper()}": value for key, value in given.items()}
    return Process(["watchbill.worker"], folder, name or f"worker-{crew.replace('/', '-')}", environment)


class Store:
    """A Redis or Valkey of the test's own at a Unix socket, with its data on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "store.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{quote(str(self._socket))}"
        # its own 5 s would fail a test on a busy machine
        self.client = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=STORE_SECONDS)

    def start(self) -> None:
        """On the data of the one before. Returns when it answers."""
        command = local_server.server_command(local_server.find_server(), self._folder, self._socket, fsync="no")
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        machine.until(
            lambda: self.client.ping(), within=180, what="the store answers", ignoring=(redis.RedisError,), every=0.02
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It hangs: connections stand, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def keys_of(self, namespace: str, name: str) -> set[str]:
        """All that the store has of a crew, with the indexes that name it."""
        found = {str(key) for key in self.client.scan_iter(match="*", count=1000)}
        own = {key for key in found if key.startswith(f"wb:{{{namespace}/{name}}}:")}
        own |= {key for key in found if key == f"crew:{{{namespace}}}:{name}"}
        if self.client.sismember(f"crew:{{{namespace}}}:list", name):
            own.add(f"crew:{{{namespace}}}:list")
        own |= {key for key in found if key.startswith(f"crew:{{{namespace}}}:id:") and self.client.get(key) == name}
        return own


def hold(seconds: float, condition: Callable[[], object], what: str) -> None:
    """The condition is true for that long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.2)
