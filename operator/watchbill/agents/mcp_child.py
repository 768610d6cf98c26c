"""The parent of a tool server's process: ends it, and all that it has started, when the worker ends.

It is run by its path, as `python -S mcp_child.py COMMAND...`, and imports nothing but the standard library. What comes
on its standard input it passes on to the command; the command writes to our standard output itself. A worker that is
killed closes our input, and so does one that stops: the command gets the end of its input, then a little time, and is
killed with its whole process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 1.0
_CHUNK = 64 * 1024


def main(command: list[str]) -> None:
    """Runs the command. Ends with this process's whole group, which the worker has made for it."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)
    relay = threading.Thread(target=_relay, args=[child], daemon=True)
    relay.start()
    code = child.wait()
    if code:
        sys.stderr.write(f"{command[0]}: ended with code {code}\n")
        sys.stderr.flush()
    _end()


def _relay(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, _CHUNK):
            _write(child, data)
    with contextlib.suppress(OSError):
        child.stdin.close()  # type: ignore[union-attr]
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    _end()


def _write(child: subprocess.Popen[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(child.stdin.fileno(), view) :]  # type: ignore[union-attr]


def _end() -> None:
    """Kills the process group: this process, the command, and what that has left behind."""
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
