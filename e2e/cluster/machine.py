"""This machine: its commands, its packages, its locks. Every error says what is missing and how to get it.

May install packages with apt, as root and only what is missing; may end no process that it did not start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from e2e.cluster import recipe

T = TypeVar("T")

# Command → the Debian package that has it.
DOCKER_PACKAGES = {"dockerd": "docker.io", "iptables": "iptables", "jq": "jq"}
IMAGE_PACKAGES = {"debootstrap": "debootstrap"}

CAP_SYS_RESOURCE = 24
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"

_started = time.monotonic()


class ClusterError(Exception):
    """An error of a cluster, with the fix."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(f"{reason}\n{fix}" if fix else reason)
        self.reason = reason
        self.fix = fix


def say(message: str) -> None:
    """A line of progress, with the seconds since the start."""
    print(f"{time.monotonic() - _started:5.0f} s  {message}", flush=True)


def which(command: str) -> str | None:
    """Like shutil.which; also where a user's PATH may not look."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}")


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
    fix: str = "",
) -> str:
    """Returns the output of the command. Raises ClusterError with the end of its output, also of its errors, when it
    fails."""
    words = [str(word) for word in command]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(words, input=data, env=environment, cwd=cwd, timeout=timeout, capture_output=True)
    except FileNotFoundError:
        raise ClusterError(f"There is no {words[0]!r} on this machine", fix) from None
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(words)!r} did not end within {timeout:.0f} s", fix) from error
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        end = "\n".join(f"    {line}" for line in output.splitlines()[-30:])
        raise ClusterError(f"{' '.join(words)!r} failed with exit code {done.returncode}:\n{end}", fix)
    return done.stdout.decode(errors="replace")


def succeeds(command: Sequence[str | Path], **options: object) -> bool:
    """Returns whether the command is there and ends with 0."""
    try:
        run(command, **options)  # type: ignore[arg-type]
    except ClusterError:
        return False
    return True


def until(
    condition: Callable[[], T],
    *,
    within: float,
    what: str,
    ignoring: tuple[type[Exception], ...] = (),
    every: float = 0.1,
) -> T:
    """The first true value of the condition. Raises TimeoutError with `what` and the last value or error seen."""
    deadline = time.monotonic() + within
    while True:
        seen: object
        try:
            value = condition()
            if value:
                return value
            seen = value
        except ignoring as error:
            seen = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s: {what}; last seen: {seen!r}")
        time.sleep(every)


class Busy(ClusterError):
    """Another process holds a lock."""


@contextmanager
def lock(name: str, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Held by one process at a time, or by many that share it; freed when they end, however that is.

    Raises Busy, without `wait`, if another process holds it.
    """
    folder = recipe.cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise Busy(f"Another process holds {file.name}", "Wait until it ends.") from None
            say(f"waiting for another process that holds {file.name}")
            fcntl.flock(file, how)
        yield


@contextmanager
def workshop(name: str) -> Iterator[Path]:
    """A folder to build in, on the cache's file system, for one process at a time; gone afterwards."""
    with lock(name):
        for leftover in recipe.cache().glob(f"building-{name}-*"):
            for line in Path("/proc/self/mounts").read_text().splitlines():
                if line.split()[1].startswith(f"{leftover}/"):
                    run(["umount", line.split()[1]])
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=f"building-{name}-", dir=recipe.cache()) as folder:
            yield Path(folder)


def missing(packages: Mapping[str, str]) -> list[str]:
    """The packages of those commands that are not here."""
    return [package for command, package in packages.items() if not which(command)]


def install(packages: Mapping[str, str]) -> None:
    """Installs the packages of the commands that are missing; raises ClusterError where only a person can."""
    wanted = missing(packages)
    if not wanted:
        return
    fix = f"Install {', '.join(wanted)}, or run this as root on Debian or Ubuntu."
    if not (is_root() and which("apt-get")):
        raise ClusterError(f"Missing on this machine: {', '.join(wanted)}", fix)
    say(f"apt-get install {' '.join(wanted)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], env=env, timeout=300, fix=fix)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted], env=env, timeout=600, fix=fix)


def may_raise_limits() -> bool:
    """Returns whether a container here can be given CAP_SYS_RESOURCE; some virtual machines withhold it from
    everyone."""
    status = Path("/proc/self/status")
    if not status.exists():
        return True
    bounding = next(line for line in status.read_text().splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def start_time(pid: int) -> str | None:
    """Returns the start time of a process in the kernel's own count, which tells it from a later one with its id; None
    if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
