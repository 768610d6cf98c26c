"""The programs in docs/client.md run as they are written, against a crew at work."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill import local
from watchbill.client import Client

DOCS = Path(__file__).parents[2] / "docs" / "client.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
SLOW = re.compile(r"^Executing .* took \d+\.\d+ seconds\n", re.MULTILINE)
"""What asyncio's debug mode says of a step that took 0.1 s, which is the machine's doing."""
USAGE = DOCS.parent / "usage.md"
[REMINDER] = re.findall(r"^```yaml\n# reminder.yaml\n(.*?)^```$", USAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
async def url(private_redis: Callable[[], Awaitable[Any]], tmp_path: Path) -> AsyncIterator[str]:
    """A store with the crew of the examples at work."""
    server = await private_redis()
    (tmp_path / "reminder.yaml").write_text(REMINDER)
    async with Client(server.url) as client:
        await client.apply(tmp_path / "reminder.yaml")
    async with local.LocalCrews(server.url, crews=["default/reminders"]):
        yield server.url


async def test_the_programs_run_as_they_are_written(url: str, tmp_path: Path) -> None:
    said = []
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 240, "cwd": tmp_path}
    for program in PROGRAMS:
        assert "redis://localhost:6379" in program
        command = [sys.executable, "-X", "dev", "-c", program.replace("redis://localhost:6379", url)]
        done = await asyncio.to_thread(subprocess.run, command, **options)  # type: ignore[arg-type]  # it is overloaded
        assert (done.returncode, SLOW.sub("", done.stderr)) == (0, ""), program
        said.append(done.stdout)
    first, many, crews, stopping, events, sync = said
    assert first.splitlines()[0] == "completed Stand-up."
    assert first.splitlines()[-1] == "True Tea. None"
    assert many == "Reminder 999.\n"
    assert crews.splitlines() == [
        "crew default/reminders unchanged",
        "heartbeat default/stand-up unchanged",
        "['default/reminders'] ['stand-up']",
    ]
    assert stopping == "True cancelled: no tea tomorrow\n"
    assert "task_completed" in events
    assert sync == "Stand-up.\n"


def test_every_method_is_told_of() -> None:
    text = DOCS.read_text()
    for method in (
        "interrupt",
        "resume",
        "cancel",
        "cancel_all",
        "dead_letters",
        "replay",
        "follow",
        "workers",
        "drain",
        "submit_many",
        "apply",
        "crews",
        "crew",
        "manifest",
        "heartbeats",
        "delete",
    ):
        assert re.search(rf"\b{method}\b", text), method
