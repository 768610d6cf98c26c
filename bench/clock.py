"""The wall clock of one process, a store's say, which can be moved while it runs. Its monotonic clock stays right.

By libfaketime (Debian's package `faketime`). May not know what the process does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LIBRARY: Final = "libfaketime.so.1"
_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/lib64",
)
MISSING: Final = "no libfaketime here: install Debian's package faketime"


def library() -> Path | None:
    """None where this machine has none."""
    places = (Path(folder, "faketime", _LIBRARY) for folder in _FOLDERS)
    return next((place for place in places if place.exists()), None)


class Clock:
    """`environment` is what the process is to be started with, or started again."""

    def __init__(self, folder: Path, ahead: float = 0.0) -> None:
        """`ahead`: by so many seconds at first; negative: behind. Raises FileNotFoundError without libfaketime."""
        found = library()
        if found is None:
            raise FileNotFoundError(MISSING)
        self._file = folder / "clock"
        self.ahead = ahead
        self.move(0)
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, seconds: float) -> None:
        """It is so much further ahead within some milliseconds; negative: it goes back."""
        self.ahead += seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{self.ahead:+f}\n")
        os.replace(new, self._file)
