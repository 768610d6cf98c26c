"""Waits for child processes that agents have started and let go of. Until then a child that has ended is a zombie.

Python does so whenever it starts another process, and a worker may start none for hours. No other child may be waited
for here: its agent would miss the exit code. Standard library only.
"""

from __future__ import annotations

import subprocess
from typing import Final

SECONDS: Final = 1.0
"""Between two calls, while there are such children."""


def reap() -> bool:
    """Waits for those that have ended. Returns whether there are others."""
    subprocess._cleanup()  # type: ignore[attr-defined]  # nothing public does this and no more
    return bool(subprocess._active)  # type: ignore[attr-defined]
