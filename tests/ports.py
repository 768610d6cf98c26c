"""Ports for servers of tests."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"

_given: dict[int, int] = {}
"""Port → the descriptor of its lock, which this process holds for as long as it lives."""


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody has, and that no other process of tests is given. They are below those that the kernel
    gives to clients."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 22_000)
        if port not in _given and _is_ours(port):
            found.append(port)
    return found


def _is_ours(port: int) -> bool:
    """A port that was found free has no server yet, so only a lock keeps others from finding it free, too."""
    folder = Path(tempfile.gettempdir(), f"watchbill-test-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    with suppress(OSError), socket.socket() as one:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.bind((HOST, port))
        _given[port] = lock
        return True
    os.close(lock)
    return False
