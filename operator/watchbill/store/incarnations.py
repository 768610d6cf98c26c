"""Names of incarnations: one for each life of a worker in the store's eyes, `<host>-<pid>.<nonce>`. Asks the kernel.

The nonce begins with what tells namespaces of process numbers apart: containers may share the host's name.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Sequence
from typing import Final

AGENTS_AT_ONCE: Final = 200
"""Agents of whose coming or going one call tells: that holds the store for some milliseconds."""


def fresh() -> str:
    """A name that no other life has."""
    return f"{_host()}-{os.getpid()}.{_space()}{secrets.token_hex(4)}"


def worker(incarnation: str) -> str:
    """The name of the worker that an incarnation belongs to, by which it is drained."""
    return incarnation.rpartition(".")[0]


def parts(agents: Sequence[str]) -> list[Sequence[str]]:
    """Returns the agents in lists of as many as one call may name; for no agents one that is empty."""
    return [agents[start : start + AGENTS_AT_ONCE] for start in range(0, len(agents) or 1, AGENTS_AT_ONCE)]


def ended_here(incarnation: str) -> bool:
    """Returns whether this incarnation was a process of this host that has ended."""
    process, _, nonce = incarnation.rpartition(".")
    host, _, pid = process.rpartition("-")
    if host != _host() or not pid.isdigit() or not nonce.startswith(_space()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _space() -> str:
    try:
        return f"{os.stat('/proc/self/ns/pid').st_ino & 0xFFFF:04x}"
    except OSError:  # no Linux
        return "0000"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
