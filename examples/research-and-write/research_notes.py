"""The researcher's tool: a search in the notes beside this file. No index, no network."""

from __future__ import annotations

import re
from pathlib import Path

NOTES = Path(__file__).with_name("notes.md")
MOST = 3
"""Notes that one search returns."""


def search(words: str) -> list[dict[str, str]]:
    """Search the team's notes. Returns the notes that contain most of the words, the best first, at most three.

    Args:
        words: Words that the note should contain, separated by spaces. Their order and their case don't matter.
    """
    wanted = set(re.findall(r"\w{3,}", words.lower()))
    if not wanted:
        raise ValueError("give at least one word of three letters or more")
    found = []
    for note in NOTES.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = note.partition("\n")
        hits = sum(1 for word in wanted if word in note.lower())
        if hits:
            found.append((hits, {"title": title.strip(), "text": text.strip()}))
    return [note for _, note in sorted(found, key=lambda one: -one[0])[:MOST]]
