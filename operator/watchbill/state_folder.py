"""The folder of a private store, and its socket. Trusts no place that another user can change.

Whoever can write to the folder can put a socket of their own in the store's place, and then reads the work and decides
what agents are run: so a folder of somebody else's, or one that others may write to, is refused, for root too. Starts
no server and opens no connection.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchbill import errors

SOCKET: Final = "store.sock"
LOCK: Final = "lock"

SOCKET_PATH_MAX: Final = 103
"""Bytes. macOS has room for 104 with the final zero, Linux for 108."""

_TEMPORARY: Final = "watchbill-"
_YOUNG_SECONDS: Final = 60.0
"""A temporary folder may be without a lock for a moment while it is made."""


def private(folder: Path) -> Path:
    """The folder, resolved; made for this user alone where it is missing. One that exists keeps its mode and files.

    Raises NoStore where it belongs to another user or others may write to it, OSError where it can't be made.
    """
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o700)
    found = folder.resolve()
    status = found.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    advice = f"Use one that is yours alone, which may be inside it: --state {folder / 'mine'}"
    if status.st_uid != os.getuid():
        raise errors.NoStore(f"The folder {str(folder)!r} belongs to another user (uid {status.st_uid}). {advice}")
    if status.st_mode & 0o022:
        raise errors.NoStore(
            f"Other users may write to the folder {str(folder)!r}, and so put a store of their own there. "
            f"Run: chmod go-w {folder}"
        )
    if not any(found.iterdir()):
        (found / ".gitignore").write_text("*\n", encoding="utf-8")  # in a repository it is not meant to be committed
    return found


def socket_path(folder: Path) -> Path:
    """Returns the path of the socket of the store in `folder` (absolute, resolved), the same for every process of this
    user.

    In the folder where its path is short enough, else in a private folder in /tmp: not in $TMPDIR, which may differ
    between two terminals. Raises NoStore where somebody else was there first.
    """
    inside = folder / SOCKET
    if len(os.fsencode(inside)) <= SOCKET_PATH_MAX:
        return _ours(inside)
    shelter = _shelter()
    with suppress(FileExistsError):
        shelter.mkdir(mode=0o700)
    found = shelter.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise errors.NoStore(
            f"{str(shelter)!r} is not a folder of yours alone, so the store's socket can't be there. "
            "Remove it, or use a state folder with a shorter path"
        )
    return _ours(shelter / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]}.sock")


def _ours(socket: Path) -> Path:
    """The path. Raises NoStore where another user has put a file there: before the folder was closed to them, say."""
    with suppress(FileNotFoundError):
        if (owner := socket.lstat().st_uid) != os.getuid():
            raise errors.NoStore(
                f"The store's socket {str(socket)!r} belongs to another user (uid {owner}). Remove it, or use another "
                "state folder"
            )
    return socket


def _shelter() -> Path:
    return Path(f"/tmp/watchbill-{os.getuid()}")  # noqa: S108 - used after a check that it is ours alone


def temporary() -> Path:
    """A new folder for a store that leaves nothing behind. Removes those whose processes were all killed at once."""
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY)).resolve()
    if len(os.fsencode(folder / SOCKET)) > SOCKET_PATH_MAX:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir="/tmp"))
    now = folder.stat().st_mtime
    for other in folder.parent.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if _is_left(other, now):
                shutil.rmtree(other, ignore_errors=True)
    return folder


def _is_left(folder: Path, now: float) -> bool:
    """Returns whether this is a temporary folder of ours whose owner and server are gone: both hold its lock."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return False
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if now - os.fstat(lock).st_mtime < _YOUNG_SECONDS:
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    return True
