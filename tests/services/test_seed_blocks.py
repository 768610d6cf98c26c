"""The programs of seed 003's document run as written. Only import lines and the store's address are changed."""

from __future__ import annotations

import ast
import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from runtimes import Gated

from waiting import until
from watchbill import connection
from watchbill.services import (
    AgentService,
    AgentServiceClient,
    AgentServiceConfig,
    BotManager,
    DeliveryChannel,
    DeliveryConfig,
    TaskPriority,
    TaskResult,
)

SEED = (Path(__file__).parents[1] / "seeds" / "003.txt").read_text()
IMPORTED = {
    "from parrot.manager import": "from watchbill.services import",
    "from parrot.services import": "from watchbill.services import",
}


def _blocks() -> dict[str, str]:
    """The heading above each program → the program, with its import lines changed."""
    found, heading = {}, ""
    for title, block in re.findall(r"^#{2,} (.*?)$|^```python\n(.*?)^```$", SEED, re.MULTILINE | re.DOTALL):
        heading = title or heading
        if block:
            assert heading not in found
            for old, new in IMPORTED.items():
                block = block.replace(old, new)
            assert "parrot." not in block
            found[heading] = block
    return found


BLOCKS = _blocks()
ADDRESS = "redis://localhost:6379"


async def run(block: str, names: dict[str, Any] | None = None, url: str = ADDRESS) -> dict[str, Any]:
    """Runs a block, which may await, and returns the names that it has defined besides `names`, those of blocks that
    stand before it."""
    names = dict(names or {})
    code = compile(BLOCKS[block].replace(ADDRESS, url), block, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waits = eval(code, names)
    if waits is not None:
        await waits
    return names


@pytest.fixture
async def url(private_redis: Callable[[], Awaitable[Any]]) -> str:
    return str((await private_redis()).url)


def test_every_block_is_run_here() -> None:
    assert list(BLOCKS) == [
        "1. Minimal Example",
        "AgentServiceConfig",
        "AgentTask",
        "LOG (Default)",
        "Webhook",
        "Telegram",
        "MS Teams",
        "Email",
        "Redis Stream",
        "Heartbeat Scheduling",
        "Submitting Tasks from External Processes",
        "Integration with aiohttp Web Server",
        "Monitoring",
        "Graceful Shutdown",
    ]


async def test_the_minimal_example_runs_until_it_is_interrupted(url: str) -> None:
    program = BLOCKS["1. Minimal Example"].replace(ADDRESS, url)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    try:
        async with connection.connected(url) as store:
            entries: Any = await until(lambda: store.xrange("parrot:agent_results"))
        result = TaskResult.model_validate_json(entries[0][1]["payload"])
        assert result.agent_name == "MyAgent"
        assert "Agent 'MyAgent' not found in BotManager" in str(result.error), "it registers none"
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate)
    finally:
        process.kill()
        process.wait()


async def test_configurations_and_tasks_are_made_as_they_are_written() -> None:
    before = await run("AgentServiceConfig")
    assert before["config"] == AgentServiceConfig(), "it spells out all defaults"
    task = (await run("AgentTask"))["task"]
    assert (task.agent_name, task.priority, task.user_id) == ("ResearchBot", TaskPriority.HIGH, "user_123")
    assert task.metadata == {"source": "cron_job", "department": "engineering"}
    assert task.delivery.channel is DeliveryChannel.WEBHOOK
    config = (await run("Heartbeat Scheduling", before))["config"]
    service = AgentService(config, BotManager())
    assert service.get_status()["heartbeats"] == 3, "one is disabled"
    await service.stop()


async def test_every_channel_is_configured_as_it_is_written() -> None:
    given = {"DeliveryConfig": DeliveryConfig, "DeliveryChannel": DeliveryChannel}
    streams, found = AgentServiceConfig().streams, {}
    for block in ("LOG (Default)", "Webhook", "Telegram", "MS Teams", "Email", "Redis Stream"):
        delivery = (await run(block, given))["delivery"]
        found[block] = [destination.channel for destination in delivery.destinations({}, streams)]
    assert found == {
        "LOG (Default)": [],
        "Webhook": ["webhook"],
        "Telegram": ["telegram"],
        "MS Teams": ["teams"],
        "Email": ["email"],
        "Redis Stream": [],
    }, "log and stream have every result anyway"


async def test_external_processes_monitoring_and_graceful_shutdown(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bot, config = Gated(), AgentServiceConfig(redis_url=url)
    bots = BotManager({"MyAgent": bot})
    named = {"AgentService": AgentService, "config": config, "bot_manager": bots, "asyncio": asyncio}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    service = (await run("Graceful Shutdown", named))["service"]
    await run("Submitting Tasks from External Processes", url=url)
    assert capsys.readouterr().out == "done: Quick question\n"
    assert set(bot.asked) == {"Analyze this data", "Quick question"}
    await run("Monitoring", {"service": service})
    said = ast.literal_eval(capsys.readouterr().out)
    assert list(said) == ["running", "queue_size", "active_workers", "available_slots", "heartbeats"]
    assert said["running"] is True
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: not service.get_status()["running"])
    await service.stop()
    loop = asyncio.get_running_loop()
    for number, handler in before.items():
        loop.remove_signal_handler(number)
        signal.signal(number, handler)


async def test_a_web_server_gives_tasks_and_answers_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = await run("Integration with aiohttp Web Server", url=url)
    client: AgentServiceClient = names["client"]
    monkeypatch.setenv("WATCHBILL_DELIVERY_ALLOW", "127.0.0.0/8")
    called: list[Any] = []

    async def callback(request: web.Request) -> web.Response:
        called.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/tasks", names["handle_async_task"])
    app.router.add_post("/callback", callback)
    runner = web.AppRunner(app, shutdown_timeout=0, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    here = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    try:
        async with aiohttp.ClientSession() as session:
            given = {"agent": "MyAgent", "prompt": "hello", "callback_url": f"{here}/callback"}
            async with session.post(f"{here}/tasks", json=given) as answer:
                told = await answer.json()
        assert told == {"task_id": told["task_id"], "status": "queued"}
        async with AgentService(AgentServiceConfig(redis_url=url), BotManager({"MyAgent": Gated()})):
            await until(lambda: called)
        assert (called[0]["task_id"], called[0]["output"]) == (told["task_id"], "done: hello")
        assert (await client.get_result(told["task_id"])).success  # type: ignore[union-attr]
    finally:
        await client.disconnect()
        await runner.cleanup()
