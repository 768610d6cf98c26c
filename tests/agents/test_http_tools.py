"""Tools that a crew declares as HTTP requests, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from ports import free_ports
from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.agents.tools import Tool
from watchbill.api.tool_sources import HttpTool
from watchbill.errors import NotWorthRetrying, RetryAfter, RetryLater, UserActionRequired
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.testing import Answer, FakeModel, ToolCall

PARAMETERS = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "count": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["item"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
async def _close(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("WATCHBILL_TOOLS_ALLOW", "loopback")
    yield
    await aclose_clients()


class Shop:
    """A server that notes what it is asked, and answers as it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], web.StreamResponse] = lambda: web.json_response({"euros": 12.5})
        self.hold: asyncio.Event | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        asked = {"method": request.method, "path": request.raw_path, "body": json.loads(body) if body else None}
        self.asked.append({**asked, "headers": dict(request.headers)})
        if self.hold:
            await self.hold.wait()
        return self.answer()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    found = Shop()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", found.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


def declared(url: str, **more: Any) -> HttpTool:
    given = {"name": "price", "description": "The price of an item.", "url": url, "parameters": PARAMETERS}
    return HttpTool.model_validate({**given, **more})


def crew_of(tool: HttpTool, base_url: str | None = None) -> CrewDefinition:
    agent = AgentDefinition(agent_id="guide", model="openai-chat:any", base_url=base_url, tools=["price"])
    return CrewDefinition(name="crew", agents=[agent], http_tools=[tool])


def tool_of(url: str, **more: Any) -> Tool:
    crew = crew_of(declared(url, **more))
    assert AgentLoader().check(crew) == []
    return AgentLoader().tools(crew, crew.agents[0])["price"]


async def test_a_model_makes_the_request_that_is_declared(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "t-1")
    tool = declared(f"{shop.url}/items/{{item}}?v=1", headers={"Authorization": "Bearer env:SHOP_TOKEN"})
    answers: list[Answer] = [ToolCall("price", {"item": "a/b ü?", "count": 2, "tags": ["x", "y"]}), "done"]
    async with FakeModel(answers) as model:
        crew = crew_of(tool, model.base_url)
        loader = AgentLoader()
        context = testing.context()
        context.tools = loader.tools(crew, crew.agents[0])
        assert await loader.load(crew, crew.agents[0]).run(context) == "done"
    [asked] = shop.asked
    assert (asked["method"], asked["body"]) == ("GET", None)
    assert asked["path"] == "/items/a%2Fb%20%C3%BC%3F?v=1&count=2&tags=x&tags=y"
    assert asked["headers"]["Authorization"] == "Bearer t-1"
    [shown] = model.requests[0].body["tools"]
    assert shown["function"]["description"] == "The price of an item."
    assert shown["function"]["parameters"]["properties"]["count"] == {"type": "integer"}
    assert json.loads(model.requests[1].tool_results[0]) == {"euros": 12.5}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_arguments_that_the_url_does_not_cite_are_a_body(shop: Shop, method: str) -> None:
    await tool_of(f"{shop.url}/items/{{item}}", method=method)(item="lamp", count=2)
    [asked] = shop.asked
    assert (asked["method"], asked["path"], asked["body"]) == (method, "/items/lamp", {"count": 2})
    assert asked["headers"]["Content-Type"] == "application/json"


async def test_what_is_no_json_is_text(shop: Shop) -> None:
    shop.answer = lambda: web.Response(text="dear")
    assert await tool_of(shop.url)(item="lamp") == "dear"


async def test_arguments_that_do_not_fit_are_the_models_to_mend(shop: Shop) -> None:
    tool = tool_of(f"{shop.url}/items/{{item}}")
    for arguments, told in (
        ({"item": 3}, "arguments.item: 3 is not of type 'string'"),
        ({"item": "x", "colour": "red"}, "'colour' was unexpected"),
        ({"item": ".."}, "item can't be '..'"),
    ):
        with pytest.raises(ValueError, match=told):
            await tool(**arguments)
    assert shop.asked == []


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (404, {}, ValueError),
        (422, {}, ValueError),
        (401, {}, UserActionRequired),
        (403, {}, UserActionRequired),
        (302, {"Location": "http://127.0.0.1/"}, UserActionRequired),
        (429, {"Retry-After": "7"}, RetryAfter),
        (503, {}, RetryLater),
        (500, {}, RetryLater),
    ],
)
async def test_a_status_says_who_can_do_something(
    shop: Shop, status: int, headers: dict[str, str], kind: type[Exception]
) -> None:
    shop.answer = lambda: web.Response(text="the reason", status=status, headers=headers)
    with pytest.raises(kind, match=f"HTTP {status}") as raised:
        await tool_of(shop.url)(item="lamp")
    assert type(raised.value) is kind
    assert getattr(raised.value, "retry_after", 7) == 7
    assert len(shop.asked) == 1


async def test_an_answer_that_is_too_large_or_too_late_is_refused(shop: Shop) -> None:
    shop.answer = lambda: web.Response(body=b"x" * 300_000)
    with pytest.raises(NotWorthRetrying, match="more than 256 KiB"):
        await tool_of(shop.url)(item="lamp")
    shop.hold = asyncio.Event()
    with pytest.raises(RetryLater, match="no answer in time"):
        await tool_of(shop.url, timeoutSeconds=1)(item="lamp")


async def test_addresses_inside_are_refused_unless_they_are_allowed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_TOOLS_ALLOW", "10.0.0.0/8")
    for host in ("127.0.0.1", "localhost", "[::1]"):
        with pytest.raises(UserActionRequired, match=r"not one that tools may connect to.*WATCHBILL_TOOLS_ALLOW"):
            await tool_of(f"http://{host}:{shop.url.rpartition(':')[2]}/")(item="lamp")
    assert shop.asked == []


async def test_a_server_that_is_away_is_worth_another_attempt() -> None:
    with pytest.raises(RetryLater, match="can't be reached"):
        await tool_of(f"http://127.0.0.1:{free_ports(1)[0]}/")(item="lamp")


async def test_a_header_whose_variable_is_missing_or_broken_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tool_of(shop.url, headers={"X-Key": "env:SHOP_KEY"})
    with pytest.raises(UserActionRequired, match="header X-Key of the variable SHOP_KEY, which is not set"):
        await tool(item="lamp")
    monkeypatch.setenv("SHOP_KEY", "a\r\nb: c")
    with pytest.raises(UserActionRequired, match="control characters"):
        await tool(item="lamp")
    assert shop.asked == []
