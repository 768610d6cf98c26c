"""Services that are killed under load, and a store that is restarted or emptied beneath them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from runtimes import Runtime, task

import forks
from waiting import until, whole_lines
from watchbill import connection
from watchbill.names import CrewKeys
from watchbill.services import AgentServiceClient, AgentServiceConfig, HeartbeatConfig, TaskResult
from watchbill.services.config import keys_of
from watchbill.store import runs

HERE = Path(__file__).parent
BEATS = [HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template=f"beat {n}") for n in range(2)]


class Processes:
    """Processes of services over one store, and what their bots noted."""

    def __init__(self, url: str, folder: Path, **options: Any) -> None:
        self.config = AgentServiceConfig(redis_url=url, max_workers=8, shutdown_timeout_seconds=5, **options)
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.client = AgentServiceClient(url)
        self.redis: Any = connection.connect(url)

    @property
    def keys(self) -> CrewKeys:
        return keys_of(self.config.task_stream)

    def start(self) -> subprocess.Popen[bytes]:
        command = [str(HERE / "service_process.py"), self.config.model_dump_json(), self._notes]
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            self.started.append(forks.start(command, stdout=log, stderr=log, env=os.environ))
        return self.started[-1]

    def log(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    @property
    def _notes(self) -> str:
        return str(self.folder / "notes")

    def notes(self, what: str) -> Counter[str]:
        """Task → how often that was noted of it."""
        lines = map(json.loads, whole_lines(Path(self._notes)))
        return Counter(line["task"] for line in lines if line["what"] == what)

    async def kill_at(self, process: subprocess.Popen[bytes], ends: int) -> Counter[str]:
        """kill -9 once so many tasks have ended. Returns how often each that is finished was begun."""
        await until(lambda: len(self.notes("end")) >= ends, what=f"the end of {ends} tasks")
        process.kill()
        process.wait()
        begun = self.notes("start")
        return Counter({i: n for i, n in begun.items() if await runs.result(self.redis, self.keys, i) is not None})

    async def results(self) -> list[tuple[str, TaskResult]]:
        entries = await self.redis.xrange(self.config.result_stream)
        return [(fields["task_id"], TaskResult.model_validate_json(fields["payload"])) for _, fields in entries]

    async def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        await self.client.disconnect()
        await self.redis.aclose()


@pytest.fixture
async def processes(
    private_redis: Callable[[], Awaitable[Any]], tmp_path: Path
) -> AsyncIterator[tuple[Processes, Any]]:
    server = await private_redis()
    found = Processes(server.url, tmp_path, heartbeats=BEATS, max_attempts=5)
    yield found, server
    await found.close()


async def test_services_killed_under_load_lose_nothing_double_no_result_and_rerun_nothing_finished(
    processes: tuple[Processes, Any],
) -> None:
    """By tasks of clients, entries of the task stream and heartbeats; with a restart of the store between the two."""
    services, server = processes
    tasks = [task(str(0.01 * (i % 5)), task_id=f"task-{i}") for i in range(120)]
    entries = [f"entry-{i}" for i in range(120)]

    async def load() -> None:
        for one, entry in zip(tasks, entries, strict=True):
            await services.client.submit_task(one)
            fields = {"task_id": entry, "agent_name": "Bot", "payload": json.dumps({"prompt": one.prompt})}
            await services.redis.xadd(services.config.task_stream, fields)

    loading = asyncio.create_task(load())
    first = services.start()
    finished = await services.kill_at(first, 40)
    await loading
    second = services.start()
    await until(lambda: len(services.notes("end")) >= 80, what="work of the second service")
    await server.restart()
    finished |= await services.kill_at(second, 130)
    last = [services.start(), services.start()]
    wanted = {*(one.task_id for one in tasks), *entries}
    await until(lambda: _published(services, wanted), what="all results")
    # What a killed service had submitted and not removed is taken over once it is idle for long enough.
    await until(lambda: _all_taken(services), what="an empty task stream")
    for number, process in enumerate(last, 2):
        await until(lambda n=number: "started: " in services.log(n), what="its start")  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
    assert [await asyncio.to_thread(process.wait) for process in last] == [0, 0], (
        services.folder / "3.log"
    ).read_text()

    results = await services.results()
    counted = Counter(task_id for task_id, _ in results)
    assert set(counted.values()) == {1}, "a result was doubled"
    beats = set(counted) - wanted
    assert beats
    assert all(name.startswith("hb-bot-") for name in beats)
    assert all(result.success for _, result in results)
    begun = services.notes("start")
    assert {name: begun[name] for name in finished} == finished, "a finished task ran again"
    assert sum(begun.values()) - len(begun) <= 2 * services.config.max_workers, "more ran again than was running"
    assert await services.redis.xlen(services.keys.dead) == 0


async def _all_taken(services: Processes) -> bool:
    return int(await services.redis.xlen(services.config.task_stream)) == 0


async def _published(services: Processes, wanted: set[str]) -> bool:
    return wanted <= {task_id for task_id, _ in await services.results()}


async def test_a_service_goes_on_in_a_store_that_was_emptied(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as redis_client:
        runtime = Runtime(server.url, redis_client)
        async with runtime.stack:
            beat = HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="beat")
            service = await runtime.service(heartbeats=[beat])
            running = await service.submit_task(task("wait"))
            await until(lambda: "wait" in runtime.bot.asked)
            await redis_client.flushall()
            beats = runtime.bot.asked.count("beat")
            runtime.bot.let("wait")
            result = await service.get_result(running, 180)
            assert result is not None, "its result outlived the loss"
            assert result.output == "done: wait"
            await redis_client.xadd(runtime.tasks, {"task_id": "new", "agent_name": "Bot", "prompt": "new"})
            assert await service.get_result("new", 180)
            await until(lambda: runtime.bot.asked.count("beat") > beats + 1, what="heartbeats")
            assert service.get_status()["running"]


async def test_an_outage_of_the_store_ends_nothing_and_the_status_is_true(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as redis_client:
        runtime = Runtime(server.url, redis_client)
        async with runtime.stack:
            service = await runtime.service()
            running = await service.submit_task(task("wait"))
            await until(lambda: "wait" in runtime.bot.asked)
            await server.kill()
            runtime.bot.let("wait")
            await server.restart()
            await runtime.has_published(running)
            assert service.get_status()["running"]
            await redis_client.xadd(runtime.tasks, {"task_id": "new", "agent_name": "Bot", "prompt": "new"})
            await runtime.has_published("new")
