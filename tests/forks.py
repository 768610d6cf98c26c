"""Starts Python processes as forks of one that has imported Watchbill: importing takes most of a brief one's time.

What a fork runs, it runs as `python -m` would: with the arguments, environment, folder and descriptors of its own. It
can't tell whether each module imports what it uses, nor what goes wrong while Python takes its modules apart: for that,
some processes of each kind are started from nothing. Those also build models, and find out the types of a command's
options, which take half of what most commands do.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

IMPORTS = (
    "uvloop",
    "rich.console",
    "rich.markdown",
    "rich.table",
    "typer.rich_utils",
    "yaml",
    "watchbill.agents.loading",
    "watchbill.api.loader",
    "watchbill.cli.app",
    "watchbill.cli.beats",
    "watchbill.cli.hints",
    "watchbill.cli.in_process",
    "watchbill.cli.overview",
    "watchbill.cli.process",
    "watchbill.cli.progress",
    "watchbill.cli.reading",
    "watchbill.cli.serving",
    "watchbill.cli.stores",
    "watchbill.init",
    "watchbill.scheduler",
    "watchbill.services.service",
    "watchbill.local",
    "watchbill.worker.health",
)
"""What the processes import that tests start most."""

_READ_AT_START = ("DYLD_", "LANG", "LC_", "LD_", "PYTHON")
"""How variables begin that Python, or what loads it, reads at its start: a fork comes too late for them."""


class Fork(subprocess.Popen[Any]):
    """A process that is the child of the one which forked it."""

    _child_created = False  # so that Popen looks after nothing

    def __init__(self, args: Sequence[str], life: socket.socket) -> None:
        self.args = args
        self.stdin = self.stdout = self.stderr = None
        self.returncode: Any = None
        self._life = life
        self.pid = int(life.recv(16))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._life], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            told = self._life.recv(16)
            assert told, "the process that forks has ended"
            self.returncode = int(told)
            self._life.close()
        return self.returncode


class _Template:
    """The process that forks."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._lock = threading.Lock()

    def fork(self, request: Mapping[str, Any], streams: Sequence[int]) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.seek(0)
            with self._lock:
                socket.send_fds(self._control, [b"."], [file.fileno(), theirs.fileno(), *streams])
        return ours

    def close(self) -> None:
        self._control.close()
        self._process.wait()


_templates: dict[Sequence[str], _Template] = {}
"""By the modules that they have imported besides."""


def start(
    arguments: Sequence[str | Path],
    *,
    stdin: IO[Any] | int | None = None,
    stdout: IO[Any] | int,
    stderr: IO[Any] | int,
    env: Mapping[str, str],
    cwd: Path | None = None,
    start_new_session: bool = False,
    modules: tuple[str, ...] = (),
) -> subprocess.Popen[Any]:
    """Starts `python ARGUMENTS`, which are a script and its arguments, or `-m`, a module and its arguments. `modules`:
    what it will import besides IMPORTS.

    From nothing, where `env` says what is read before anything runs. A new session whose stdin is a terminal is
    controlled by it.
    """
    if any(name.startswith(_READ_AT_START) and os.environ.get(name) != value for name, value in env.items()):
        return subprocess.Popen(
            [sys.executable, *arguments] if arguments[0] == "-m" else [sys.executable, "-P", *arguments],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=start_new_session,
        )
    if modules not in _templates:
        _templates[modules] = _Template(modules)
    request: dict[str, Any] = {
        "arguments": [str(argument) for argument in arguments],
        "env": dict(env),
        "cwd": str(cwd or Path.cwd()),
        "start_new_session": start_new_session,
    }
    with Path(os.devnull).open() as nothing:
        given: tuple[Any, ...] = (nothing if stdin is None else stdin, stdout, stderr)
        streams = [stream if isinstance(stream, int) else stream.fileno() for stream in given]
        return Fork(request["arguments"], _templates[modules].fork(request, streams))


def close() -> None:
    """Ends the processes that fork."""
    while _templates:
        _templates.popitem()[1].close()


# ---------------------------------------------------------------- in the process that forks


def _serve(control: socket.socket) -> dict[str, Any]:
    """Forks at each request. Returns what is asked, in the forks only; ends the process that forks."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lives: dict[int, socket.socket] = {}
    while True:
        watched: list[Any] = [control, woken]
        select.select(watched, [], [])
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 1024)
        _tell_ends(lives)
        if not select.select([control], [], [], 0)[0]:
            continue
        asked, descriptors, *_ = socket.recv_fds(control, 1, 5)
        if not asked:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return _become(descriptors)
        file, life, *streams = descriptors
        for descriptor in (file, *streams):
            os.close(descriptor)
        lives[pid] = socket.socket(fileno=life)
        lives[pid].send(b"%-16d" % pid)


def _build(model: type[BaseModel]) -> None:
    """Builds the models that inherit from this one, which each process would do at their first use."""
    for inheriting in model.__subclasses__():
        if inheriting.__module__.startswith("watchbill."):
            inheriting.model_rebuild()
        _build(inheriting)


def _take_in(command: Any) -> None:
    """Finds out of what types the options of this command and those below it are."""
    for parameter in command.params:
        parameter.get_runtime_param()
    for below in getattr(command, "commands", {}).values():
        _take_in(below)


def _tell_ends(lives: dict[int, socket.socket]) -> None:
    while lives:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with lives.pop(pid) as life, contextlib.suppress(OSError):
            life.send(b"%-16d" % os.waitstatus_to_exitcode(status))


def _become(descriptors: Sequence[int]) -> dict[str, Any]:
    file, _, *streams = descriptors
    with os.fdopen(os.dup(file)) as text:
        request: dict[str, Any] = json.load(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 1024)
    if request["start_new_session"]:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C and a change of its size become signals
    os.chdir(request["cwd"])
    importlib.reload(places)  # it keeps the folder in which the process has started
    os.environ.clear()
    os.environ.update(request["env"])
    if kube_config := sys.modules.get("kubernetes.aio.config.kube_config"):
        importlib.reload(kube_config)  # it keeps where the environment says that the API server is
    time.tzset()
    sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    return request


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    stream = os.fdopen(descriptor, mode, encoding="utf-8", closefd=False)
    assert isinstance(stream, io.TextIOWrapper)
    return stream


def _run(arguments: list[str]) -> None:
    try:
        if arguments[0] == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):  # Python prints it
            raise
        _end(end.code or 0)
    _end(0)


def _end(code: int) -> None:
    """Ends the process as Python does, up to the point where Python takes apart all that was imported: that costs more
    than most commands, for the kernel must copy it. Leaves it to Python where a stream can't be written."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # warns of what nobody has awaited or closed
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except (OSError, ValueError):
        sys.exit(code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    for name in (*IMPORTS, *sys.argv[2:]):
        importlib.import_module(name)
    import typer.main

    from watchbill import init
    from watchbill.cli import app
    from watchbill.worker.execution import places

    # Each start of the command line puts all of its commands together, in the same way.
    typer.main.get_command = functools.cache(typer.main.get_command)
    _take_in(typer.main.get_command(app.app))
    _build(BaseModel)
    # `_end` takes less: it has the kernel copy nothing of what was imported.
    init.leave = sys.exit  # type: ignore[assignment]
    gc.collect()
    gc.freeze()
    _run(_serve(socket.socket(fileno=int(sys.argv[1])))["arguments"])
