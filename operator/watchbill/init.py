"""The first instant of a process that is told to stop by signals, before all that takes long to import; and its last.

PID 1 of a container has two duties: what its children left behind becomes its own child, and stays a zombie until it is
waited for; and a signal that it doesn't handle is lost. So PID 1 goes on as a small init, and its child does the work:
whoever waited for any child in the worker would take the exit codes that agents wait for.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

_FAULTS: Final = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}


def _open_descriptors() -> None:
    """Opens those of stdin, stdout and stderr that are closed, so that no file or socket takes their numbers. What is
    written to stderr is lost then, and writing to stdout fails, as it should: it is for what was asked for."""
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest that is free: this one
        if getattr(sys, name) is None:
            stream = io.TextIOWrapper(
                open(number, "rb" if number == 0 else "wb", closefd=False),  # noqa: SIM115 - to the end
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=number == 2,
            )
            setattr(sys, name, stream)


_WRITERS: Final = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""Files that hold back what is written to them; the outer ones first."""
_FLUSH_SECONDS: Final = 10.0
"""The time to write what files hold back, while other threads may hold files. By themselves readers may be slow."""
_FORCES: Final = "watchbill end"
"""The name of `force`'s thread."""
_leaves_with: list[int] = []
"""The exit code, once the process leaves."""


def begin(codes: Mapping[signal.Signals, int]) -> None:
    """From now on each of these signals ends the process at once with that exit code, until it is handled otherwise:
    nothing has begun. So does one that came before, if whoever started the process has blocked it. Of PID 1 only a
    child returns from this."""
    _open_descriptors()
    if not atexit._ncallbacks():  # else what a sitecustomize has registered would never run
        atexit.register(_skip_the_rest)  # the first that is registered runs last
    faulthandler.enable()  # what ran when C code gave up is seen on stderr: that of the event loop, say
    for number, code in codes.items():
        signal.signal(number, lambda *_, code=code: os._exit(code))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, codes)
    if os.getpid() == 1:
        _be_init()


def begin_imports() -> None:
    """Makes imports quick, until `imported`: a tenth of their time goes to a search for garbage, which they don't
    make."""
    gc.disable()


def import_redis() -> None:
    """Imports redis-py without OpenTelemetry, which it imports where that is installed: a tenth of a worker's start."""
    if not {"opentelemetry", "redis"}.isdisjoint(sys.modules):
        return
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # it can't be imported
    try:
        import redis.asyncio  # noqa: F401
    finally:
        del sys.modules["opentelemetry"]
    # An agent may turn on redis-py's own metrics all the same: what that needs is imported then.
    is_there = importlib.util.find_spec("opentelemetry") is not None
    for name in ("redis.observability.metrics", "redis.observability.providers"):
        if (module := sys.modules.get(name)) is not None:  # other versions of redis-py may have other ones
            vars(module)["OTEL_AVAILABLE"] = is_there


def imported() -> None:
    """Has garbage looked for again, though not among what was imported, which would take long each time."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def force(seconds: float, end: Callable[[], object]) -> Callable[[], None]:
    """Calls `end` in a thread after so many seconds, but for those in which the machine gives this process no time.
    Returns what calls that off."""
    ended, parts = threading.Event(), 50

    def wait() -> None:
        if not any(ended.wait(seconds / parts) for _ in range(parts)):  # one that ends late counts as one
            end()

    def call_off() -> None:
        ended.set()
        thread.join()

    thread = threading.Thread(target=wait, daemon=True, name=_FORCES)
    thread.start()
    return call_off


def heed_signals() -> None:
    """From now on SIGINT and SIGTERM end the process: what is left to do is to write, and a reader may never read.
    uvloop leaves behind handlers that do nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """Ends the process, which began by `begin`, as `sys.exit` does: threads end, what is registered with atexit runs,
    and what was written to open files is in them. But its modules are not taken apart: that takes 200 ms of CPU, ten
    times what else a worker needs to end."""
    _leaves_with.append(code)
    sys.exit(code)


def _skip_the_rest() -> None:
    for code in _leaves_with:
        gc.unfreeze()
        files = [one for one in gc.get_objects() if type(one) in _WRITERS]
        # An agent's thread may write for ever, and hold its file. Ours doesn't, and counts better.
        if any(one.name != _FORCES for one in threading.enumerate() if one is not threading.main_thread()):
            faulthandler.dump_traceback_later(_FLUSH_SECONDS, exit=True, file=2)
        for file in sorted(files, key=lambda one: _WRITERS.index(type(one))):
            with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                file.flush()
        os._exit(code)


def _be_init() -> None:
    heard = signal.valid_signals() - _FAULTS - {signal.SIGKILL, signal.SIGSTOP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        told = signal.sigwaitinfo(heard)
        if told.si_signo == signal.SIGCHLD:
            _reap(worker)
        elif told.si_code <= 0:  # by a process; what the kernel says (Ctrl-C on a terminal) all have heard
            with suppress(ProcessLookupError):
                os.kill(worker, told.si_signo)


def _reap(worker: int) -> None:
    """Waits for all that have ended. Ends with the worker, as it did."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
