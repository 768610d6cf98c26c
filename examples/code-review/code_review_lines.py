"""Line numbers of a unified diff."""

from __future__ import annotations

import re

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@")
ADDED = re.compile(r"(?m)^(\d+)\+ (.*)$")
"""A line that was added, as `numbered` writes it: its number, and its text."""


def numbered(diff: str) -> str:
    """The hunks of one file. Lines that were added begin with their number in the new file, as in `12+ text`."""
    lines, number = [], 0
    for line in diff.splitlines():
        if hunk := _HUNK.match(line):
            number = int(hunk[1])
            lines.append(line)
        elif number and line.startswith("+"):
            lines.append(f"{number}+ {line[1:]}")
            number += 1
        elif number and not line.startswith("\\"):
            lines.append(line)
            number += not line.startswith("-")
    return "\n".join(lines)
