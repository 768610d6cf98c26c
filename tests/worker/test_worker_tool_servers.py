"""Tool servers that die, come back, hang or lack a tool, beside a worker process whose other agents go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from workshop import Crew, Make, Process, agent, metrics_of

from ports import free_ports
from waiting import until
from watchbill.api.tool_sources import ToolServer
from watchbill.records import AgentDefinition
from watchbill.testing import Answer, FakeModel, Request, ToolCall

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SHOP = [sys.executable, str(Path(__file__).parents[1] / "agents" / "mcp_server_process.py")]
HANGS = [sys.executable, "-c", "import time; time.sleep(600)"]
MAY = {"WATCHBILL_ALLOW_COMMANDS": sys.executable, "WATCHBILL_TOOLS_ALLOW": "loopback"}
LONG = 300.0
AGAIN = {"max_attempts": 30, "backoff_seconds": 0.5}


class HttpShop:
    """The server by HTTP, always at the same port."""

    def __init__(self, log: Path) -> None:
        [self.port] = free_ports(1)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*SHOP, "http", str(self.port)], stdout=log, stderr=log)
        await until(self._listens, LONG, "the server listens")

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def shops(transport: str, folder: Path) -> AsyncIterator[tuple[ToolServer, HttpShop]]:
    http = HttpShop(folder / "shop.log")
    where: dict[str, Any] = {"command": [*SHOP, "stdio"]}
    if transport == "http":
        await http.start()
        where = {"url": f"http://127.0.0.1:{http.port}/mcp"}
    try:
        yield ToolServer.model_validate({"name": "shop", "timeoutSeconds": 300, **where}), http
    finally:
        http.kill()


def asks(tools: dict[str, Any]) -> Callable[[Request], Answer]:
    """The model calls the tool that its prompt names, and answers with what that says."""

    def answer(request: Request) -> Answer:
        name = request.prompt
        return request.tool_results[-1] if request.tool_results else ToolCall(f"shop_{name}", tools.get(name, {}))

    return answer


def llm(name: str, model: FakeModel, *tools: str) -> AgentDefinition:
    return AgentDefinition(agent_id=name, model="openai-chat:any", base_url=model.base_url, tools=list(tools))


async def up(crew: Crew, worker: Process, server: str = "shop") -> float | None:
    found = await metrics_of(worker.metrics_url, crew.name)
    return found.get(("watchbill_tool_server_up", server))


async def is_well(crew: Crew, worker: Process, task_id: str) -> bool:
    """The worker says so, and does other work."""
    async with aiohttp.ClientSession() as http:
        for path in ("healthz", "readyz"):
            async with http.get(worker.metrics_url.replace("metrics", path)) as page:
                assert page.status == 200
    await crew.submit(task_id, "other")
    return bool((await crew.result(task_id, LONG)).success)


def children(pid: int) -> set[int]:
    """The processes that this one has started, and theirs."""
    own: set[int] = set()
    with suppress(OSError):  # it has ended meanwhile, or a thread of it
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                own.update(map(int, (thread / "children").read_text().split()))
    return own.union(*map(children, own))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.timeout(900)  # each wait is long enough for a busy machine
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_server_that_dies_in_a_call_or_between_two_tasks_comes_back(
    make_crew: Make, tmp_path: Path, transport: str
) -> None:
    marker = tmp_path / "died"
    async with (
        shops(transport, tmp_path) as (server, http),
        FakeModel(asks({"price": {"item": "chair"}, "die_once": {"marker": str(marker)}})) as model,
    ):
        agents = [llm("buyer", model, "shop/*"), agent("other", "Brief")]
        crew = await make_crew(agents, tool_servers=[server], tasks=AGAIN)
        crew.open()
        worker = await crew.worker(health=True, environment=MAY)

        async def buys(task_id: str, what: str) -> Any:
            await crew.submit(task_id, "buyer", what)
            return await crew.result(task_id, LONG)

        assert "80.0" in (await buys("t1", "price")).output
        assert await up(crew, worker) == 1

        await crew.submit("t2", "buyer", "die_once")
        await until(marker.exists, LONG, "the server dies")
        if transport == "http":
            await until(lambda: not http.lives)
            told = await until(lambda: _failures(crew, "t2"), LONG, "an attempt has failed")
            assert "tool server 'shop'" in told
            assert await until(lambda: _is(up(crew, worker), 0.0), what="it is known to be out")
            assert await is_well(crew, worker, "o1")
            await http.start()
            if delayed := await crew.redis.zrange(crew.keys.delayed, 0, -1):  # its pauses have doubled meanwhile
                await crew.redis.zadd(crew.keys.delayed, dict.fromkeys(delayed, 1), xx=True)
        result = await crew.result("t2", LONG)
        assert ("alive" in result.output, result.attempt > 1) == (True, True)
        assert await up(crew, worker) == 1
        await until(lambda: "tool server 'shop' has gone while it worked" in worker.log)
        await until(lambda: transport == "http" or "It last wrote: the shop burns" in worker.log)

        if transport == "stdio":
            first = json.loads((await buys("t3", "pid")).output)["result"]
            os.kill(first, signal.SIGKILL)
            assert await until(lambda: _is(up(crew, worker), 0.0), what="it is known to be out")
        else:
            http.kill()
            await http.start()
        result = await buys("t4", "price")
        assert "80.0" in result.output
        assert transport == "http" or result.attempt == 1
        assert await is_well(crew, worker, "o2")
        assert await crew.dead() == []

        started = children(worker.pid)
        assert bool(started) is (transport == "stdio")
        await worker.drain()
        await until(lambda: not any(map(lives, started)), what="the end of all that the worker has started")


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_server_that_hangs_or_lacks_a_tool_is_named_and_keeps_nobody_else(
    make_crew: Make, tmp_path: Path, transport: str
) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()
    where: dict[str, Any] = (
        {"command": HANGS} if transport == "stdio" else {"url": f"http://127.0.0.1:{address[1]}/mcp"}
    )
    hanging = ToolServer.model_validate({"name": "late", "timeoutSeconds": 2, **where})
    try:
        async with shops(transport, tmp_path) as (server, _), FakeModel(asks({"price": {"item": "chair"}})) as model:
            named = {"waits": "late/price", "errs": "shop/prize", "buys": "shop/price"}
            agents = [llm(name, model, tool) for name, tool in named.items()]
            options = {"tool_servers": [server, hanging], "tasks": {"max_attempts": 2, "backoff_seconds": 0}}
            crew = await make_crew([*agents, agent("other", "Brief")], **options)
            crew.open()
            worker = await crew.worker(health=True, environment=MAY)
            for name in named:
                await crew.submit(name, name, "price")
            assert await is_well(crew, worker, "o1")
            waits, errs, buys = await crew.results(named, LONG)
            assert "80.0" in buys.output
            assert "tool server 'late' did not start within 2 s" in waits.error
            assert waits.attempt == 2
            assert "tool server 'shop' has no tool 'prize' (did you mean 'price'?)" in errs.error
            assert errs.attempt == 1
            assert len(model.requests) == 2
            assert {letter["id"] for letter in await crew.dead()} == {"waits", "errs"}
            assert await is_well(crew, worker, "o2")
            assert await up(crew, worker) == 1
            assert await up(crew, worker, "late") == 0
            started = children(worker.pid)
            await worker.drain()
            await until(lambda: not any(map(lives, started)), what="the end of all that the worker has started")
    finally:
        for writer in held:
            writer.close()
        listening.close()


async def _failures(crew: Crew, task_id: str) -> str:
    """What the attempts said that have failed; empty: none has."""
    return " ".join(one.message for one in (await crew.client.why(crew.name, task_id)).attempts)


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)
