"""Texts for people: what is said of a result, and within the bounds of a channel. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable

from watchbill.delivery.message import Message


def title(message: Message) -> str:
    """One line: who has done what."""
    who = message.agent_name or "Task"  # of a role, and no agent has had it
    return f"{who} {'completed' if message.success else 'failed'}"


def body(message: Message) -> str:
    """The output, or the error. What is no text is written as JSON."""
    said = message.output if message.success else message.error
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "replace").decode()  # half a character is no text that others take


def footer(message: Message) -> str:
    """One line: which task it was, and how long it took."""
    return f"Task {message.task_id}, {message.execution_time_ms / 1000:.1f} s"


def shorten(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or as much of its beginning as fits together with a mark that says how much is missing.

    `fits` must be true of a text if it is true of a longer one that begins with it.
    """
    if fits(text):
        return text
    low, high = 0, len(text)  # so many characters fit; so many don't
    while high - low > 1:
        middle = (low + high) // 2
        if fits(_cut(text, middle)):
            low = middle
        else:
            high = middle
    return _cut(text, low)


def _cut(text: str, length: int) -> str:
    return f"{text[:length]}\n… (cut: {len(text) - length} more characters)"
