"""The programs in docs/client.md run as they are written, against a crew at work."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchbill import service

DOCS = Path(__file__).parents[2] / "docs" / "client.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
SLOW = re.compile(r"^Executing .* took \d+\.\d+ seconds\n", re.MULTILINE)
"""What asyncio's debug mode says of a step that took 0.1 s, which is the machine's doing."""
CREW = """\
apiVersion: watchbill.dev/v1alpha1
kind: Crew
metadata: {name: reminders}
spec:
  agents: [{name: host, class: EchoAgent}]
"""


@pytest.fixture
async def url(private_redis, tmp_path: Path) -> AsyncIterator[str]:
    """A store with the crew of the examples at work."""
    server = await private_redis()
    (tmp_path / "crew.yaml").write_text(CREW)
    async with service.AgentService(server.url, service.load([tmp_path / "crew.yaml"])):
        yield server.url


async def test_the_programs_run_as_they_are_written(url: str) -> None:
    said = []
    for program in PROGRAMS:
        assert "redis://localhost:6379" in program
        command = [sys.executable, "-X", "dev", "-c", program.replace("redis://localhost:6379", url)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, SLOW.sub("", done.stderr)) == (0, ""), program
        said.append(done.stdout)
    first, many, stopping, events, sync = said
    assert first.splitlines()[0] == "completed Stand-up."
    assert first.splitlines()[-1] == "True Tea. None"
    assert many == "Reminder 999.\n"
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
    ):
        assert re.search(rf"\b{method}\b", text), method
