"""The program in docs/events.md runs as it is written."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "events.md"
[PROGRAM] = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


async def test_the_program_runs_as_it_is_written(private_redis: Any) -> None:
    server = await private_redis()
    program = PROGRAM.replace("redis://localhost:6379", server.url)
    command = [sys.executable, "-W", "error", "-c", program]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "agent_spawned researcher a helper for the sources\n", "")
