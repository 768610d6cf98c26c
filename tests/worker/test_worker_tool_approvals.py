"""Calls of tools that wait for approval, of models and of agents in Python, beside workers that die."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from workshop import Crew, Make, agent

from waiting import until, whole_lines
from watchbill.api.tool_sources import HttpTool, ToolServer
from watchbill.errors import Conflict
from watchbill.records import AgentDefinition
from watchbill.tasks import Approval, TaskState
from watchbill.testing import Answer, FakeModel, Request, ToolCall

pytestmark = pytest.mark.usefixtures("libraries")

PAY = "conversation_hands:pay"
REMEMBER = "conversation_hands:remember"
SERVER = [sys.executable, str(Path(__file__).parents[1] / "agents" / "mcp_server_process.py"), "stdio"]
SHOP = ToolServer.model_validate({"name": "shop", "command": SERVER, "timeoutSeconds": 300})


def guide(model: FakeModel, *tools: str) -> AgentDefinition:
    return AgentDefinition(agent_id="guide", model="openai:any", base_url=model.base_url, tools=list(tools))


def words(crew: Crew) -> Counter[str]:
    return Counter(map(json.loads, whole_lines(crew.folder / "words")))


async def asked(crew: Crew, task_id: str, number: int) -> Sequence[Approval]:
    """What the task waits for, once that are so many."""

    async def found() -> list[Approval]:
        known = (await crew.client.approvals(crew.name, task_id)).get(task_id, [])
        waiting = [one for one in known if one.state == "waiting"]
        is_aside = await crew.client.state(crew.name, task_id) is TaskState.APPROVAL
        return waiting if is_aside and len(waiting) == number else []

    return await until(found, 300, f"{number} approvals")


async def test_a_worker_that_dies_in_a_call_that_was_approved_costs_that_call_and_no_approval(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        calls = [ToolCall("pay", {"folder": folder, "word": word}) for word in ("!rent", "wages")]
        return " / ".join(request.tool_results) or calls

    folder = ""
    async with FakeModel(answer) as model:
        crew = await make_crew([guide(model, PAY)], requires_approval=[PAY], lease_seconds=3)
        folder = str(crew.folder)
        first = await crew.worker()
        await crew.submit("t", "guide")
        rent, wages = await asked(crew, "t", 2)
        assert words(crew) == {}
        assert [json.loads(one.details)["word"] for one in (rent, wages)] == ["!rent", "wages"]
        with pytest.raises(Conflict, match="waits for several approvals"):
            await crew.client.approve(crew.name, "t")
        assert await crew.client.approve(crew.name, "t", what=rent.what)
        await until(lambda: words(crew), 300, "the call")
        first.kill()
        assert await crew.client.reject(crew.name, "t", what=wages.what, reason="not today")
        assert not await crew.client.reject(crew.name, "t", what=wages.what)
        crew.open()
        async with crew.in_process():
            result = await crew.result("t", 300)
    assert words(crew) == {"!rent": 2}
    assert result.output.startswith("!rent / This call was not made: rejected: not today")
    assert [len(request.tool_results) for request in model.requests] == [0, 2]
    assert len((await crew.client.approvals(crew.name, "t"))["t"]) == 2


async def test_calls_that_need_approval_cut_off_no_other_of_their_turn(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        given = {"folder": folder, "word": "!slow"}
        calls = [ToolCall("pay", {"folder": folder, "word": "rent"}), ToolCall("remember", given)]
        return " / ".join(request.tool_results) or calls

    folder = ""
    async with FakeModel(answer) as model:
        crew = await make_crew([guide(model, PAY, REMEMBER)], requires_approval=[PAY])
        folder = str(crew.folder)
        async with crew.in_process():
            await crew.submit("t", "guide")
            await until(lambda: words(crew), 300, "the call that needs no approval")
            crew.open()
            (rent,) = await asked(crew, "t", 1)
            assert words(crew) == {"!slow": 1}
            (told,) = [e.message for e in await crew.events() if e.event_type == "mission_help_needed"]
            assert told.startswith(f'waits for approval: {rent.what} {{"folder": ')
            assert await crew.client.approve(crew.name, "t", reason="it is due")
            assert (await crew.result("t")).output == "rent / !slow"
    assert words(crew) == {"!slow": 1, "rent": 1}


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """Yields the URL of a shop, and what is sold: where, and by which key."""
    sold: list[tuple[str, str]] = []

    async def sell(request: web.Request) -> web.Response:
        sold.append((request.path, request.query["key"]))
        return web.json_response({"sold": True})

    app = web.Application()
    app.router.add_get("/{at}", sell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", sold
    finally:
        await runner.cleanup()


def selling(url: str) -> list[HttpTool]:
    parameters = {"type": "object", "properties": {"key": {"type": "string"}}}
    return [HttpTool.model_validate({"name": "sell", "description": "Sells.", "url": url, "parameters": parameters})]


async def test_calls_of_servers_and_requests_wait_and_show_no_secret(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_TOOLS_ALLOW", "loopback")
    monkeypatch.setenv("WATCHBILL_ALLOW_COMMANDS", sys.executable)
    monkeypatch.setenv("SHOP_TOKEN", "hunter2-hunter2")

    def answer(request: Request) -> Answer:
        calls = [ToolCall("sell", {"key": "hunter2-hunter2"}), ToolCall("shop_price", {"item": "lamp"})]
        return " / ".join(request.tool_results) or calls

    async with FakeModel(answer) as model, shop() as (url, sold):
        tools = {"http_tools": selling(f"{url}/sell"), "tool_servers": [SHOP]}
        crew = await make_crew([guide(model, "sell", "shop/*")], requires_approval=["sell", "shop/price"], **tools)
        async with crew.in_process():
            await crew.submit("t", "guide")
            sale, price = await asked(crew, "t", 2)
            assert json.loads(sale.details) == {"key": "[redacted SHOP_TOKEN]"}
            assert json.loads(price.details) == {"item": "lamp"}
            assert sold == []
            for one in (sale, price):
                assert await crew.client.approve(crew.name, "t", what=one.what)
            assert (await crew.result("t")).output == '{"sold":true} / {"result":12.5}'
            await crew.define(requires_approval=["shop/prize"])
            await crew.submit("u", "guide")
            assert "has no tool 'prize' (did you mean 'price'?)" in (await crew.result("u")).error
        assert sold == [("/sell", "hunter2-hunter2")]


@pytest.mark.parametrize("name", ["guide", "seller"])
async def test_an_approval_does_not_hold_for_a_tool_that_was_declared_anew(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WATCHBILL_TOOLS_ALLOW", "loopback")

    def answer(request: Request) -> Answer:
        return " / ".join(request.tool_results) or ToolCall("sell", {"key": "lamp"})

    async with FakeModel(answer) as model, shop() as (url, sold):
        agents = [guide(model, "sell"), agent("seller", "sells_apart", notes=False, tools=["sell"])]
        crew = await make_crew(agents, requires_approval=["sell"], http_tools=selling(f"{url}/cheap"))
        async with crew.in_process():
            await crew.submit("t", name)
            (cheap,) = await asked(crew, "t", 1)
            await crew.define(http_tools=selling(f"{url}/dear"))
            assert await crew.client.approve(crew.name, "t")
            (dear,) = await asked(crew, "t", 1)
            assert (sold, dear.what == cheap.what, dear.details) == ([], False, cheap.details)
            assert await crew.client.approve(crew.name, "t")
            assert (await crew.result("t")).success
        assert sold == [("/dear", "lamp")]
    assert len(model.requests) == (2 if name == "guide" else 0)


async def test_a_call_that_nobody_approves_in_time_fails_its_task_and_is_not_made(make_crew: Make) -> None:
    async with FakeModel(lambda _: ToolCall("pay", {"folder": "nowhere", "word": "rent"})) as model:
        crew = await make_crew([guide(model, PAY)], requires_approval=[PAY], approval_timeout_seconds=1)
        async with crew.in_process():
            await crew.submit("t", "guide")
            error = (await crew.result("t")).error
    assert error.startswith("ApprovalTimedOut: nobody approved within 1 s (what it asked for: call pay #")
    assert (words(crew), await crew.dead(), len(model.requests)) == ({}, [], 1)


@pytest.mark.parametrize("kind", ["Buys", "BuysOnLoop"])
async def test_an_agent_in_python_makes_each_call_once_when_it_was_approved(make_crew: Make, kind: str) -> None:
    crew = await make_crew([agent("a", kind, tools=[PAY])], requires_approval=[PAY], tasks={"max_attempts": 1})
    async with crew.in_process(concurrency=1):
        await crew.submit("t", "a", "rent rent")
        whats = []
        for number in range(2):
            (one,) = await asked(crew, "t", 1)
            whats.append(one.what)
            assert json.loads(one.details) == {"": [str(crew.folder)], "word": "rent"}
            assert words(crew) == ({"rent": number} if number else {})
            assert await crew.client.approve(crew.name, "t")
            await until(lambda n=number: words(crew) == {"rent": n + 1})  # type: ignore[misc]
        result: Any = await crew.result("t")
        assert (result.output, result.attempt, crew.executions()["t"]) == (["rent", "rent"], 1, 3)
        assert len(set(whats)) == 2
        await crew.submit("u", "a", "wages")
        await asked(crew, "u", 1)
        assert await crew.client.reject(crew.name, "u", reason="no money")
        assert (await crew.result("u")).error.startswith(
            "ApprovalRejected: rejected: no money (what it asked for: call"
        )
    assert words(crew) == {"rent": 2}
