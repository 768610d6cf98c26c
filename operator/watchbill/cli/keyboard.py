"""Keys that are typed on a terminal, while an event loop runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(said: Callable[[bytes], None]) -> Iterator[None]:
    """Calls `said` with what is typed on stdin, which is a terminal: nothing when that ends, or is gone."""
    # Opened anew, because the loop makes non-blocking what it waits for. A shell gives stdin and stdout as one, and a
    # slow terminal would then refuse what is written.
    try:
        terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # it has no name in this container
        terminal = os.dup(sys.stdin.fileno())

    def read() -> None:
        try:
            typed = os.read(terminal, 1024)
        except OSError:  # the terminal is gone
            typed = b""
        said(typed)

    loop = asyncio.get_running_loop()
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)
