"""Does with a page of the docs what a reader would: writes its files, and runs its shell blocks."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from test_readme import BLOCK

_FILE: Final = re.compile(r"# (\S+\.(?:yaml|py))\n")
"""The first line of a block that is a file, with its name."""


def environment(*without: str) -> dict[str, str]:
    """The environment of a reader's shell, in which `watchbill` is ours: without our variables, and those that begin
    with one of `without`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WATCHBILL_", *without))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}


def write(page: str, folder: Path) -> None:
    """Writes the page's files to the folder."""
    for _, text in BLOCK.findall(page):
        if named := _FILE.match(text):
            (folder / named[1]).write_text(text)


def shell(page: str) -> list[str]:
    """The page's shell blocks."""
    return [text for kind, text in BLOCK.findall(page) if kind == "sh"]


async def run_beside(script: str, folder: Path, **more: str) -> tuple[int | None, str, str]:
    """Runs a script while this process serves it, without keys for OpenAI but those of `more`: variables of its
    environment. Returns its exit code, what it printed, and what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=folder,
        env=environment("OPENAI_") | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def run(page: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Writes the page's files, and runs its shell blocks one after the other: each must succeed."""
    write(page, folder)
    ended = []
    for text in shell(page):
        done = subprocess.run(
            ["bash", "-euc", text], cwd=folder, env=environment(), capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ended.append(done)
    return ended
