"""Keeps how long a worker's lease is surely valid, in memory that its agents' processes read, too.

So they needn't ask a worker that stands still and can't answer. Standard library only: read before all else in them.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

LEASE_POLL_SECONDS: Final = 0.02
"""Seconds between two checks of a lease by somebody who waits for a valid one. A renewal takes a trip to the store."""
_monotonic: Final = time.monotonic  # noqa: TID251 - processes have no other clock in common
_DOUBLE: Final = struct.Struct("d")
_SURE_UNTIL, _TICKED, _STILL, _ENDED = range(0, 4 * _DOUBLE.size, _DOUBLE.size)
_STILL_SECONDS: Final = 1.0
_LONGEST_SLEEP_SECONDS: Final = 60.0


class SharedLease:
    """All times are of the monotonic clock, which the processes of a machine share."""

    def __init__(self, fd: int | None = None, monotonic: Callable[[], float] = _monotonic) -> None:
        """`fd`: the `fd` of another process's lease, which this one then shares."""
        self._now = monotonic
        if fd is None:
            fd = _memory()
            weakref.finalize(self, os.close, fd)
        self.fd = fd
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)

    def begin(self, lease_seconds: float) -> None:
        """Sets how long the worker may stand still. A keeper calls it before it renews."""
        self._write(_STILL, max(lease_seconds / 3, _STILL_SECONDS))
        self.tick()

    def extend(self, until: float) -> None:
        """Makes the lease valid until then."""
        self._write(_SURE_UNTIL, until)

    def tick(self) -> None:
        """Notes that the worker isn't frozen."""
        self._write(_TICKED, self._now())

    @property
    def is_valid(self) -> bool:
        """True if the lease is surely ours. Otherwise others may have taken what we hold, and have done it."""
        return self._now() < self._read(_SURE_UNTIL)

    @property
    def ends(self) -> float:
        """The time at which processes that work under the lease must end, unless it is extended: at its own end, if the
        worker is frozen. A worker that can't reach the store decides by itself, so for that one this is later."""
        return max(self._read(_SURE_UNTIL), self._read(_TICKED) + self._read(_STILL))

    @property
    def ended_at(self) -> float:
        """The time at which processes were last killed because of its end; 0: never."""
        return self._read(_ENDED)

    def watch(self) -> None:
        """Kills this process's group when the lease ends, and so its own process with it."""
        while (left := self.ends - self._now()) > 0:
            time.sleep(min(left, _LONGEST_SLEEP_SECONDS))
        self._write(_ENDED, self._now())
        os.killpg(0, signal.SIGKILL)

    def _read(self, place: int) -> float:
        value: float = _DOUBLE.unpack_from(self._memory, place)[0]
        return value

    def _write(self, place: int, value: float) -> None:
        _DOUBLE.pack_into(self._memory, place, value)


def start_watch(given: Mapping[str, Any]) -> None:
    """Starts a process that watches over this one's group: no thread could, while C code holds the interpreter. The
    process has no parent here, so that nobody waits for it."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            for ours in (given["line"], given["life"]):  # which tell the worker of our end, and us of its
                os.close(ours)
            SharedLease(given["lease"]).watch()
    finally:
        os._exit(0)


def _memory() -> int:
    """Makes a file of one page that has no name."""
    try:
        fd = os.memfd_create("watchbill-lease")
    except (AttributeError, OSError):  # macOS has none, and a sandbox may forbid it
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, mmap.PAGESIZE)
    return fd
