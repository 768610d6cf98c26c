"""What the worker tests share: a crew in a real store, workers as processes of their own, and the agents' notes.

Everything is asserted on what the store, the notes and the processes' own output hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

import forks
from waiting import until, whole_lines
from watchbill import connection, metrics
from watchbill.agents.loading import AgentLoader
from watchbill.client import Client, Result
from watchbill.names import CrewKeys
from watchbill.plan.why import Reason
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, TaskPolicy
from watchbill.store import control, definitions, events
from watchbill.store.queue import Queue
from watchbill.tasks import RunResult
from watchbill.worker.health import FIGURES_SECONDS
from watchbill.worker.shift import Shift
from watchbill.worker.worker import Worker

HERE = Path(__file__).parent
AGENTS = HERE / "agents"

Make = Callable[..., Awaitable["Crew"]]
"""The fixture `make_crew`."""

OF_INCARNATIONS = ("leases", "claims", "workers", "meta")
"""What a new incarnation rightly writes about itself, and what others do: meta says when somebody renewed last."""


@dataclass
class Process:
    """A worker process. Its output goes to files, so that it can be read after its end."""

    process: subprocess.Popen[bytes]
    folder: Path
    hello: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def said(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.hello['port']}/metrics"

    def signal(self, number: signal.Signals) -> None:
        assert self.lives, self.log
        os.kill(self.pid, number)

    def kill(self) -> float:
        """kill -9, and reap. Returns when."""
        self.signal(signal.SIGKILL)
        at = time.monotonic()
        self.process.wait()
        return at

    async def ended(self, seconds: float = 180.0) -> int:
        """The exit code, once it has ended by itself."""
        await until(lambda: not self.lives, seconds, f"the end of process {self.pid}")
        return self.process.returncode

    async def stopping(self) -> float:
        """SIGTERM, and its answer. Returns when."""
        self.signal(signal.SIGTERM)
        await until(lambda: "stopping" in self.said, what="its answer to SIGTERM")
        return time.monotonic()

    async def drain(self) -> None:
        """SIGTERM, and a good end."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0, self.log


@dataclass
class Crew:
    """A crew whose agents are those of `agents/*hands.py`, with a folder for their notes."""

    url: str
    keys: CrewKeys
    definition: CrewDefinition
    folder: Path
    redis: Any  # redis-py types each answer as bytes or str, whatever the connection decodes
    client: Client
    uid: str = ""
    processes: list[Process] = field(default_factory=list)
    others: list[Crew] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.keys.crew

    # ---------------------------------------------------------------- work

    async def submit(self, task_id: str, agent: str | None = None, prompt: str = "do it", **options: Any) -> str:
        return await self.client.submit(self.name, prompt, agent=agent, id=task_id, **options)

    async def result(self, work_id: str, timeout: float = 180.0) -> Any:
        """Waits for the end of a task or of a run, whose result has a type of its own."""
        return await self.client.wait(self.name, work_id, timeout=timeout)

    async def run_result(self, run_id: str, timeout: float = 180.0) -> RunResult:
        """Waits for the end of a run."""
        found = await self.client.wait(self.name, run_id, timeout=timeout)
        assert isinstance(found, RunResult)
        return found

    async def results(self, work_ids: Iterable[str], timeout: float = 180.0) -> list[Any]:
        return await asyncio.gather(*(self.result(work_id, timeout) for work_id in work_ids))

    async def result_of_run(self, run_id: str) -> Result | None:
        return await self.client.result(self.name, run_id)

    async def define(self, **changes: Any) -> None:
        """Gives the crew another definition."""
        self.definition = self.definition.model_copy(update=changes)
        await definitions.apply(self.redis, self.keys, self.definition)

    @property
    def queue(self) -> Queue:
        return Queue(self.redis, self.keys, self.uid)

    def open(self, *task_ids: str) -> None:
        """Lets these tasks, or all, go on."""
        for task_id in task_ids:
            (self.folder / f"open.{task_id.replace('/', '_')}").touch()
        if not task_ids:
            (self.folder / "open").touch()

    async def through(self, url: str) -> Crew:
        """The same crew as another client sees it, by another way."""
        other = replace(self, url=url, redis=connection.connect(url), client=Client(url), others=[], processes=[])
        self.others.append(other)
        return other

    # ---------------------------------------------------------------- what agents noted

    def notes(self, what: str = "start") -> list[dict[str, Any]]:
        return [line for line in map(json.loads, whole_lines(self.folder / "notes")) if line["what"] == what]

    def executions(self) -> Counter[str]:
        """Task or step id → how often it was started."""
        return Counter(line["task"] for line in self.notes())

    async def started(self, *task_ids: str, seconds: float = 180.0) -> None:
        await until(lambda: set(task_ids) <= set(self.executions()), seconds, f"the start of {task_ids}")

    def started_by(self, process: Process) -> set[str]:
        return {line["task"] for line in self.notes() if line["pid"] == process.pid}

    # ---------------------------------------------------------------- what the store holds

    async def incarnations(self, process: Process | None = None) -> set[str]:
        """Those with a lease; of this process only, where one is given."""
        found = await self.queue.incarnations()
        return {name for name in found if process is None or f"-{process.pid}." in name}

    async def stored(self, *without: str) -> dict[str, bytes]:
        """Every key of the crew and its bytes, but for those that end so."""
        names = sorted(await self.redis.keys(self.keys.prefix + "*"))
        names = [name for name in names if name.removeprefix(self.keys.prefix) not in without]
        async with self.redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.dump(name)
            return dict(zip(names, await pipe.execute(), strict=True))

    async def ends(self) -> Counter[tuple[str, str]]:
        """(id, state) on the results stream → how often."""
        entries = await self.redis.xrange(self.keys.results)
        return Counter((fields["id"], fields["state"]) for _, fields in entries)

    async def dead(self) -> list[dict[str, str]]:
        return [fields for _, fields in await self.redis.xrange(self.keys.dead)]

    async def events(self, **which: str) -> list[Any]:
        found = await events.recent(self.redis, events.stream(self.keys, **which), 10_000)
        return [event for _, event in found]

    async def ended_events(self) -> Counter[str]:
        """Task or step id → how often the feed tells of its end."""
        kinds = ("task_completed", "task_failed")
        return Counter(event.task_id for event in await self.events() if event.event_type in kinds)

    async def told(self, task_id: str, reason: Reason) -> Any:
        """Why a task is where it is, once this is the reason."""
        told = await self.client.why(self.name, task_id)
        return told if told.reason is reason else None

    async def waits(self, number: int) -> bool:
        """Exactly so many tasks wait for a worker."""
        return (await self.client.figures(self.name)).waiting == number

    async def runs(self, process: Process, number: int) -> bool:
        """Exactly so many tasks, by its own metrics."""
        return (await metrics_of(process.metrics_url, self.name))["watchbill_worker_tasks_running",] == number

    async def has_counted(self, process: Process, number: int) -> bool:
        """So many ends, in its own metrics: it counts what the store has answered, so a result may be there before."""
        found = await metrics_of(process.metrics_url, self.name)
        return sum(value for name, value in found.items() if name[0] == "watchbill_tasks_total") == number

    async def is_heard(self) -> bool:
        """What is said to its workers: one of them listens."""
        return bool((await self.redis.pubsub_numsub(self.keys.control))[0][1])

    async def is_checked(self) -> bool:
        """A worker has loaded all agents of the current definition."""
        there = await definitions.identity(self.redis, self.keys)
        return there.loaded == there.definition

    async def is_idle(self) -> bool:
        return not await self.redis.hgetall(self.keys.holders) and not any(
            [await self.redis.xlen(stream) for stream in self.keys.streams]
        )

    # ---------------------------------------------------------------- workers

    async def invite(self, process: Process) -> None:
        """Has a worker claim what it has room for, as it does after each drain, and waits until it has. What it hasn't
        begun then waits for a slot."""
        name = max(await self.incarnations(process)).rpartition(".")[0]
        for on, line in ((True, "told to drain"), (False, "told to go on")) * 2:  # the second is heard after that claim
            before = process.log.count(line)
            await control.drain(self.redis, self.keys, self.uid, name, on=on)
            await until(lambda b=before, said=line: process.log.count(said) > b, what=line)  # type: ignore[misc]

    async def worker(
        self,
        *,
        url: str | None = None,
        concurrency: int | None = None,
        grace_seconds: float = 10.0,
        folders: Iterable[Path] = (AGENTS,),
        unpark_seconds: float = 30.0,
        health: bool = False,
        figures_seconds: float = FIGURES_SECONDS,
        only_rung: bool = False,
        batch_hold_seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
        doomed: bool = False,
    ) -> Process:
        """Starts a worker process; returns once it has its lease (`doomed`: at once). `only_rung`: it never looks for
        work by itself while it is idle. `figures_seconds`: the longest that a scrape waits for the store's figures."""
        options = {
            "url": url or self.url,
            "crew": self.name,
            "folders": [str(folder) for folder in folders],
            "concurrency": concurrency,
            "grace_seconds": grace_seconds,
            "unpark_seconds": unpark_seconds,
            "health": health,
            "figures_seconds": figures_seconds,
            "only_rung": only_rung,
            "batch_hold_seconds": batch_hold_seconds,
        }
        command: list[str | Path] = [HERE / "driver.py", json.dumps(options)]
        folder = self.folder / f"process-{len(self.processes)}"
        folder.mkdir()
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            started = forks.start(command, stdout=out, stderr=err, env=os.environ | dict(environment or {}))
        process = Process(started, folder)
        self.processes.append(process)
        if doomed:
            return process

        async def works() -> bool:
            assert process.lives, process.log
            return "\n" in process.said and bool(await self.incarnations(process))

        await until(works, 180, "the worker's lease")  # Python's start may take its time
        process.hello = json.loads(process.said.splitlines()[0])
        return process

    @asynccontextmanager
    async def in_process(self, **options: Any) -> AsyncIterator[Worker]:
        """A worker in this process, stopped at the end."""
        async with connection.Store(self.url) as store:
            options.setdefault("grace_seconds", 0.0)
            worker = Worker(store, self.keys, AgentLoader([AGENTS]), **options)
            running = asyncio.create_task(worker.run())
            try:
                yield worker
            finally:
                worker.stop()
                async with asyncio.timeout(180):
                    await running

    def kill(self) -> None:
        for process in self.processes:
            if process.lives:
                process.process.kill()
                process.process.wait()

    async def close(self) -> None:
        for other in self.others:
            await other.close()
        await self.client.close()
        await self.redis.aclose()


def shift_of(worker: Worker) -> Shift:
    """The parts of a worker that has read its crew."""
    assert worker._shift is not None, "it has not begun"
    return worker._shift


@cache
def _module_of(kind: str) -> str:
    """Returns the module of `agents/*_hands.py` that defines this class or function; else `hands`."""
    defined = re.compile(rf"^(?:class|(?:async )?def) {kind}\b", re.MULTILINE)
    return next((file.stem for file in sorted(AGENTS.glob("*_hands.py")) if defined.search(file.read_text())), "hands")


def agent(name: str, kind: str, *, notes: bool = True, **fields: Any) -> AgentDefinition:
    """An agent of that class (or function) of `agents/*hands.py`; `notes`: it takes a folder."""
    config = fields.pop("config", {}) | ({"folder": ""} if notes else {})
    return AgentDefinition(agent_id=name, agent_class=f"{_module_of(kind)}:{kind}", config=config, **fields)


async def made(
    url: str,
    name: str,
    folder: Path,
    agents: Mapping[str, str] | Iterable[AgentDefinition],
    *,
    mode: ExecutionMode = ExecutionMode.SEQUENTIAL,
    lease_seconds: int = 1,
    tasks: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Crew:
    """A crew in the store at `url`. `agents`: definitions, or name → class of the worker tests that takes a folder."""
    listed = [agent(a, kind) for a, kind in agents.items()] if isinstance(agents, Mapping) else list(agents)
    for one in listed:
        if "folder" in one.config:
            one.config["folder"] = str(folder)
    policy = TaskPolicy(lease_seconds=lease_seconds, **(tasks or {}))
    definition = CrewDefinition(name=name, execution_mode=mode, agents=listed, tasks=policy, **fields)
    crew = Crew(url, CrewKeys("test", name), definition, folder, connection.connect(url), Client(url))
    crew.uid = await definitions.apply(crew.redis, crew.keys, definition)
    return crew


async def metrics_of(url: str, crew: str) -> dict[tuple[str, ...], float]:
    """A scrape: (name, values of the labels other than the crew's) → value, of this crew only."""
    async with aiohttp.ClientSession() as http, http.get(url) as page:
        assert page.status == 200
        text = await page.text()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            namespace, name = (labels.pop(label, None) for label in metrics.OF_CREW)
            if name is None or f"{namespace}/{name}" == crew:
                found[(sample.name, *labels.values())] = sample.value
    return found
