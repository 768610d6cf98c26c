"""The log of `python -m watchbill.worker` as JSON, and of a day on which nothing goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workshop import AGENTS, Crew, Make, agent

SECRET = "se-cret-1234567"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HIDDEN = "[redacted A_SECRET_TOKEN]"


@contextmanager
def worker(crew: Crew, **settings: str) -> Iterator[Path]:
    """The worker program, which is stopped in good order. Yields the file of its log."""
    log = crew.folder / "worker.log"
    given = {"CREW": crew.name, "REDIS_URL": crew.url, "FOLDERS": str(AGENTS), "LOG_FORMAT": "json", **settings}
    environment = os.environ | {f"WATCHBILL_{name}": value for name, value in given.items()}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "watchbill.worker"], env=environment | {"A_SECRET_TOKEN": SECRET}, stderr=stderr
        )
        try:
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(180) == 0
        finally:
            process.kill()
            process.wait()


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_each_line_of_a_worker_is_an_object_that_says_what_it_is_about(make_crew: Make) -> None:
    agents = [agent("apart", "Apart", prompt="log"), agent("loop", "Inspect"), agent("bad", "Mischief")]
    crew = await make_crew(agents, tasks={"max_attempts": 1})
    traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}
    with worker(crew, LOG_LEVEL="INFO") as log:
        for task_id, name, prompt, metadata in (
            ("a", "apart", "", traced),
            ("l", "loop", "", {}),
            ("b", "bad", "ValueError", traced),
        ):
            await crew.submit(task_id, name, prompt, metadata=metadata)
            await crew.result(task_id)

    found = lines(log)
    assert SECRET not in log.read_text()
    now = datetime.now(UTC)
    assert all(now - timedelta(hours=1) < datetime.fromisoformat(line["time"]) <= now for line in found)
    of_agents = [
        {name: value for name, value in line.items() if name not in ("time", "traceback")}
        for line in found
        if line["logger"] == "watchbill.agent"
    ]
    about = {"crew": crew.name, "attempt": 1, "logger": "watchbill.agent"}
    of_a = {"agent": "apart", "task": "a", "trace_id": TRACE}
    assert of_agents == [
        {**about, **of_a, "level": "WARNING", "message": f"logged by apart: {HIDDEN}"},
        {**about, **of_a, "level": "ERROR", "message": "with its traceback"},
        {**about, "level": "WARNING", "agent": "loop", "task": "l", "message": "logged by loop"},
    ]
    (traceback,) = [line["traceback"] for line in found if line["message"] == "with its traceback"]
    assert traceback.startswith("Traceback")
    assert traceback.endswith("ValueError: caught")
    failed = [line for line in found if line["logger"] == "watchbill.worker" and line.get("task") == "b"]
    assert (
        [(line["agent"], line["attempt"], line["trace_id"]) for line in failed]
        == [("bad", 1, TRACE)] * len(failed)
        != []
    )


async def test_a_day_on_which_nothing_goes_wrong_logs_no_warning(make_crew: Make) -> None:
    crew = await make_crew([agent("one", "Brief"), agent("two", "Brief")])
    with worker(crew, LOG_LEVEL="DEBUG", HEALTH_PORT="0") as log:
        await crew.submit("run", prompt="9")
        crew.open()
        assert (await crew.run_result("run")).success

    found = lines(log)
    levels = {line["level"] for line in found}
    assert levels == {"DEBUG", "INFO"}, log.read_text()
    (began,) = [line for line in found if line["level"] == "INFO"]
    assert (began["crew"], began["message"]) == (crew.name, f"works for crew {crew.name}, on 10 tasks at once")
