"""The commands by which runbooks tell what is wrong do so as they are written, for a crew and no work that is named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from shell import Shell

RUNBOOKS: Final = Path(__file__).parents[2] / "docs" / "runbooks"
TRIED: Final = {"budget", "events", "heartbeats", "top", "why", "workers", "deliveries list"}
"""Those that only read, of a crew in any state."""


def test_what_a_runbook_has_somebody_ask_is_answered(shell: Shell, alone: str) -> None:
    shell.run("submit", alone, "x", "--agent", "first", "--id", "t1")
    texts = "".join(book.read_text() for book in sorted(RUNBOOKS.glob("*.md")))
    commands = dict.fromkeys(re.findall(r"`watchbill ([a-z ]+ NAMESPACE/CREW(?: --[^`]+)?)`", texts))
    asked = [text for text in commands if text.partition(" NAMESPACE")[0] in TRIED]
    assert {text.partition(" NAMESPACE")[0] for text in asked} == TRIED
    for text in asked:
        ended = shell.run(*shlex.split(text.replace("NAMESPACE/CREW", f"default/{alone}")))
        assert ended.returncode == 0, (text, ended.stderr)
