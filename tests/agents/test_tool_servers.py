"""Tool servers that speak MCP: real processes, by both transports, and models that call their tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mcp_legacy_process
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from ports import free_ports
from waiting import until
from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients, tool_servers
from watchbill.agents.tools import Tool
from watchbill.api.tool_sources import ToolServer
from watchbill.errors import AgentNotLoadable, RetryLater, ToolError, UserActionRequired
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store.role_feeds import RoleFeeds
from watchbill.testing import FakeModel, ToolCall
from watchbill.worker import preload
from watchbill.worker.execution import failures

HERE = Path(__file__).parent
SHOP = [sys.executable, str(HERE / "mcp_server_process.py"), "stdio"]


@pytest.fixture(autouse=True)
async def _close(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("WATCHBILL_ALLOW_COMMANDS", sys.executable)
    monkeypatch.setenv("WATCHBILL_TOOLS_ALLOW", "loopback")
    yield
    await aclose_clients()


def by_command(command: list[str] = SHOP, **more: Any) -> ToolServer:
    return ToolServer.model_validate({"name": "shop", "command": command, "timeoutSeconds": 300, **more})


def crew_of(server: ToolServer, *tools: str, base_url: str | None = None) -> CrewDefinition:
    agent = AgentDefinition(agent_id="guide", model="openai-chat:any", base_url=base_url, tools=list(tools))
    return CrewDefinition(name="crew", agents=[agent], tool_servers=[server])


def tools_of(server: ToolServer, *tools: str) -> dict[str, Tool]:
    crew = crew_of(server, *tools)
    return AgentLoader().tools(crew, crew.agents[0], "team/crew")


async def ask(server: ToolServer, *tools: str, answers: list[Any]) -> tuple[Any, FakeModel]:
    async with FakeModel(answers) as model:
        crew = crew_of(server, *tools, base_url=model.base_url)
        loader = AgentLoader()
        assert loader.check(crew) == []
        context = testing.context(tools={})
        context.tools = loader.tools(crew, crew.agents[0], "team/crew")
        return await loader.load(crew, crew.agents[0]).run(context), model


def up() -> float | None:
    labels = {"namespace": "team", "crew": "crew", "server": "shop"}
    return REGISTRY.get_sample_value("watchbill_tool_server_up", labels)


@pytest.fixture
async def http() -> AsyncIterator[ToolServer]:
    [port] = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "mcp_server_process.py"), "http", str(port)], stderr=subprocess.DEVNULL
    )
    try:

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await until(listens)
        yield ToolServer.model_validate({"name": "shop", "url": f"http://127.0.0.1:{port}/mcp"})
    finally:
        await aclose_clients()
        process.kill()
        process.wait()


async def calls_of_a_model(server: ToolServer) -> None:
    answers = [
        ToolCall("shop_price", {"item": "lamp", "count": 2}),
        ToolCall("shop_stock", {"item": "lamps"}),
        ToolCall("shop_price", {"item": "chair"}),
        "done",
    ]
    answer, model = await ask(server, "shop/price", "shop/stock", answers=answers)
    assert answer == "done"
    assert model.requests[0].tools == ["shop_price", "shop_stock"]
    first, second, third = model.requests[3].tool_results
    assert "25.0" in first
    assert "nobody has counted lamps" in second
    assert "80.0" in third
    [shown] = [each for each in model.requests[0].body["tools"] if each["function"]["name"] == "shop_price"]
    assert shown["function"]["description"] == "The price of so many items, in euros."
    assert shown["function"]["parameters"]["required"] == ["item"]


async def test_a_model_calls_the_tools_of_a_process() -> None:
    await calls_of_a_model(by_command())
    assert up() == 1
    await aclose_clients()
    assert up() == 0


async def test_a_model_calls_the_tools_of_a_server_by_http(http: ToolServer) -> None:
    await calls_of_a_model(http)
    assert up() == 1


async def test_all_tools_of_a_server_are_offered_and_are_called_by_agents_with_code() -> None:
    tools = tools_of(by_command(env=["SHOP_KEY", "NOT_SET"]), "shop/*", "shop/price", "shop/variables")
    listed = await tools["shop/*"].listed()  # type: ignore[misc]
    assert {"shop_price", "shop_stock", "shop_hang"} <= {tool.name for tool in listed}
    assert (await tools["shop/price"](item="chair"))["result"] == 80.0


async def test_a_server_gets_the_variables_that_are_named_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    tools = tools_of(by_command(env=["SHOP_KEY", "NOT_SET"]), "shop/variables")
    found = (await tools["shop/variables"]())["result"]
    assert {"SHOP_KEY", "PATH"} <= set(found)
    assert not {"OPENAI_API_KEY", "NOT_SET"} & set(found)


async def test_a_server_of_the_protocol_before_works() -> None:
    tools = tools_of(by_command([sys.executable, str(HERE / "mcp_legacy_process.py")]), "shop/upper")
    assert await tools["shop/upper"](text="ho") == "HO"


# Servers that fail
async def test_an_unknown_tool_is_named() -> None:
    tools = tools_of(by_command(), "shop/prize")
    with pytest.raises(UserActionRequired, match=r"'shop' has no tool 'prize' \(did you mean 'price'\?\)"):
        await tools["shop/prize"].listed()  # type: ignore[misc]


async def test_a_server_that_does_not_start_is_told_with_what_it_wrote() -> None:
    code = "import sys; sys.stderr.write('no licence\\n'); sys.exit(4)"
    tools = tools_of(by_command([sys.executable, "-c", code]), "shop/price")
    with pytest.raises(RetryLater, match=r"tool server 'shop' can't be used.*It last wrote: no licence"):
        await tools["shop/price"].listed()  # type: ignore[misc]
    assert up() == 0


async def test_a_command_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHBILL_ALLOW_COMMANDS", "no-such-command")
    tools = tools_of(by_command(["no-such-command"]), "shop/price")
    with pytest.raises(RetryLater, match="no-such-command: No such file"):
        await tools["shop/price"].listed()  # type: ignore[misc]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_server_that_hangs_at_its_start_is_told_in_time_and_its_process_ends() -> None:
    tools = tools_of(by_command([sys.executable, "-c", "import time; time.sleep(600)"], timeoutSeconds=1), "shop/price")
    before = set(_children(os.getpid()))
    asking = asyncio.create_task(tools["shop/price"].listed())  # type: ignore[misc,arg-type]
    await until(lambda: set(_children(os.getpid())) - before or asking.done())
    with pytest.raises(RetryLater, match="'shop' did not start within 1 s"):
        await asking
    await until(lambda: not set(_children(os.getpid())) - before)


async def test_a_call_that_hangs_is_told_in_time() -> None:
    server = by_command()
    tools = tools_of(server, "shop/hang", "shop/price")
    await tools["shop/price"].listed()  # type: ignore[misc]
    connection = tool_servers._connection("team/crew", server)
    connection._server = server.model_copy(update={"timeout_seconds": 1})
    with pytest.raises(TimeoutError, match="'shop' gave no answer within 1 s"):
        await tools["shop/hang"]()


async def test_a_server_that_dies_is_told_and_the_next_call_begins_another() -> None:
    tools = tools_of(by_command(), "shop/die", "shop/price")
    with pytest.raises(RetryLater, match="'shop' has gone while it worked"):
        await tools["shop/die"]()
    assert (await tools["shop/price"](item="chair"))["result"] == 80.0


async def test_a_failure_of_a_server_has_the_task_done_again() -> None:
    with pytest.raises(ToolError) as raised:
        await ask(by_command(), "shop/die", answers=[ToolCall("shop_die", {})])
    assert failures.judge(raised.value, datetime.now(UTC)).worth_retrying


async def test_a_result_that_is_too_large_is_refused() -> None:
    tools = tools_of(by_command(), "shop/flood")
    with pytest.raises(Exception, match="more than 256 Ki characters"):
        await tools["shop/flood"](size=300_000)


async def test_a_server_by_http_that_is_away_or_inside_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/mcp"
    tools = tools_of(ToolServer.model_validate({"name": "shop", "url": url}), "shop/price")
    with pytest.raises(RetryLater, match="tool server 'shop' can't be used"):
        await tools["shop/price"].listed()  # type: ignore[misc]
    monkeypatch.delenv("WATCHBILL_TOOLS_ALLOW")
    with pytest.raises(UserActionRequired, match=r"at 127.0.0.1.*WATCHBILL_TOOLS_ALLOW"):
        await tools["shop/price"].listed()  # type: ignore[misc]


async def test_a_header_whose_variable_is_not_set_is_named() -> None:
    given = {"name": "shop", "url": "http://127.0.0.1:1/mcp", "headers": {"Authorization": "Bearer env:SHOP_TOKEN"}}
    tools = tools_of(ToolServer.model_validate(given), "shop/price")
    with pytest.raises(UserActionRequired, match="header Authorization of the variable SHOP_TOKEN"):
        await tools["shop/price"].listed()  # type: ignore[misc]


async def test_an_idle_worker_says_that_a_server_is_out(caplog: pytest.LogCaptureFixture) -> None:
    url, feeds = "http://127.0.0.1:1/v1", RoleFeeds(CrewKeys("team", "crew"))
    out, well = (crew_of(by_command(one), "shop/price", base_url=url) for one in ([sys.executable, "-c", "0"], SHOP))
    assert await preload._load_all(out, AgentLoader(), "team/crew", feeds)
    assert "crew team/crew: tool server 'shop' can't be used" in caplog.text
    caplog.clear()
    assert await preload._load_all(well, AgentLoader(), "team/crew", feeds)
    assert up() == 1
    assert "tool server" not in "".join(r.message for r in caplog.records if r.levelname == "WARNING")


# Processes that must not stay
def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += map(int, (thread / "children").read_text().split())
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_nothing_is_left_when_the_connection_ends() -> None:
    tools = tools_of(by_command(), "shop/linger")
    left = (await tools["shop/linger"]())["result"]
    assert _lives(left)
    await aclose_clients()
    await until(lambda: not _lives(left))


USER = """
import asyncio, sys
from watchbill.agents import tool_servers
from watchbill.api.tool_sources import ToolServer

async def main():
    server = ToolServer.model_validate({"name": "shop", "command": sys.argv[1:]})
    print((await tool_servers.tool("a/b", server, "shop/linger")())["result"], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_nothing_is_left_when_the_worker_is_killed() -> None:
    user = await asyncio.create_subprocess_exec(sys.executable, "-c", USER, *SHOP, stdout=asyncio.subprocess.PIPE)
    try:
        assert user.stdout is not None
        left = int(await user.stdout.readline())
        servers = _children(user.pid)
        assert servers
        assert _lives(left)
    finally:
        user.kill()
        await user.wait()
    for pid in (left, *servers):
        await until(lambda pid=pid: not _lives(pid))  # type: ignore[misc]


# What a worker may start
@pytest.mark.pure
def test_a_command_that_nobody_has_allowed_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHBILL_ALLOW_COMMANDS", "mcp-shop --read-only, python -m acme.mcp")
    crew = crew_of(by_command(["mcp-shop"]), "shop/price")
    [problem] = AgentLoader().check(crew)
    assert problem.path == "spec.agents[0].tools[0]"
    assert "runs 'mcp-shop', which this worker may not start" in problem.reason
    assert "WATCHBILL_ALLOW_COMMANDS=mcp-shop" in problem.fix
    with pytest.raises(AgentNotLoadable):
        AgentLoader().tools(crew, crew.agents[0])
    for command in (["mcp-shop", "--read-only", "x"], ["python", "-m", "acme.mcp"]):
        assert AgentLoader().check(crew_of(by_command(command), "shop/price")) == []
    assert AgentLoader(chosen=["command:mcp-shop"]).check(crew) == []


@pytest.mark.pure
def test_mcp_is_not_imported_before_a_server_is_used() -> None:
    code = (
        "import sys, watchbill.agents.loading; from watchbill.agents import tool_servers; "
        "sys.exit(any(name.partition('.')[0] == 'mcp' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


# A server by HTTP, of the protocol before, that begins anew
@pytest.mark.parametrize(("status", "code"), [(404, None), (404, -32001), (404, -32600), (400, -32000), (400, None)])
async def test_a_server_that_has_lost_our_session_is_connected_to_anew(status: int, code: int | None) -> None:
    sessions: set[str] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked, session = await request.json(), request.headers.get("Mcp-Session-Id", "")
        if asked["method"] == "initialize":
            sessions.add(session := f"s{len(sessions)}-{id(asked)}")
        elif session not in sessions:
            lost = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "no such session"}}
            return web.json_response(lost, status=status) if code else web.Response(status=status)
        if "id" not in asked:
            return web.Response(status=202)
        said = {"jsonrpc": "2.0", "id": asked["id"], **mcp_legacy_process.answer(asked)}
        return web.json_response(said, headers={"Mcp-Session-Id": session})

    app = web.Application()
    app.router.add_post("/mcp", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
        tools = tools_of(ToolServer.model_validate({"name": "shop", "url": url}), "shop/upper")
        assert await tools["shop/upper"](text="ho") == "HO"
        sessions.clear()
        with pytest.raises(RetryLater, match="tool server 'shop'"):
            await tools["shop/upper"](text="ho")
        assert await tools["shop/upper"](text="hi") == "HI"
        assert up() == 1
    finally:
        await aclose_clients()
        await runner.cleanup()
