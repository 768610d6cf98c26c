"""docs/tracing.md says what is so: its blocks run, as a reader would run them, with a collector."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

from opentelemetry.sdk.trace import export

import pages
from otlp_collector import Collector
from test_readme import BLOCK, ROOT
from watchbill import local
from watchbill.store.queue import Outcome
from watchbill.tracing.forwarding import ALL_MAX_BYTES, SPANS_MAX
from watchbill.tracing.switch import FLUSH_SECONDS

TEXT = (ROOT / "docs" / "tracing.md").read_text()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=pages.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


async def test_the_blocks_of_the_page_work_as_it_says(
    tmp_path: Path, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    crew, shell, program = (text for _, text in BLOCK.findall(TEXT))
    (tmp_path / "tides.yaml").write_text(crew)
    for _ in range(3):  # at its end the command gives a collector on a busy machine 2 s
        with Collector() as collector:
            script = shell.replace("http://127.0.0.1:4318", collector.url)
            assert script != shell
            answer = await asyncio.to_thread(run, ["bash", "-euc", script], tmp_path)
        assert "When is high water?" in answer
        if len(collector.spans) >= 6:
            break
    (sent,), (whole,) = collector.named("submit default/tides"), collector.named("invoke_workflow tides")
    assert (sent.parent, whole.parent) == ("", sent.id)
    below = [span.name for span in collector.spans if span.parent == whole.id]
    assert sorted(below) == ["process default/tides"] * 2 + ["wait default/tides"] * 2
    assert len(collector.spans) == 6
    assert {span.resource["service.name"] for span in collector.spans} == {"watchbill"}

    server = await private_redis()
    async with local.LocalCrews(server.url, local.load([tmp_path / "tides.yaml"])):
        source = program.replace("redis://localhost:6379", server.url)
        told = await asyncio.to_thread(run, [sys.executable, "-c", source], tmp_path)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]\n", told)


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert f"the newest {export._DEFAULT_MAX_QUEUE_SIZE:,} spans" in TEXT
    assert export._DEFAULT_SCHEDULE_DELAY_MILLIS == 5000
    assert f"or sooner when there are {export._DEFAULT_MAX_EXPORT_BATCH_SIZE}" in TEXT
    assert FLUSH_SECONDS == 2.0
    assert f"They are {SPANS_MAX:,} for each task at most, and {ALL_MAX_BYTES // 2**20} MiB as JSON" in TEXT
    (told,) = re.findall(r"^\| `watchbill.outcome` \| (.*) Of a run", TEXT, re.MULTILINE)
    assert set(re.findall("`(\\w+)`", told)) == set(get_args(Outcome)) | {"dropped"}
