"""A tool of models, whose calls are counted."""

from __future__ import annotations

import json
import time
from pathlib import Path


def remember(folder: str, word: str) -> str:
    """Returns the word; one with a `!` not before the file `open` is there."""
    with Path(folder, "words").open("ab", buffering=0) as file:
        file.write(json.dumps(word).encode() + b"\n")
    while word.startswith("!") and not Path(folder, "open").exists():
        time.sleep(0.01)
    return word


def pay(folder: str, word: str) -> str:
    """Does what `remember` does, for calls that need approval."""
    return remember(folder, word)
