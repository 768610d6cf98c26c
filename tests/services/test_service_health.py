"""A service shows over HTTP what a worker shows, and waits for a store that is away when it starts."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from runtimes import Runtime, task

from waiting import until
from watchbill import local_server
from watchbill.errors import InvalidInput, StoreUnavailable
from watchbill.services import AgentService, AgentServiceConfig, BotManager
from watchbill.worker import health

PROGRAM = Path(__file__).with_name("service_process.py")


async def get(port: int | None, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_a_service_shows_health_and_metrics_where_a_workers_setting_says(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await runtime.service()).health_port is None
    monkeypatch.setenv("WATCHBILL_HEALTH_PORT", "0")
    monkeypatch.setattr(health, "FIGURES_SECONDS", 60.0)
    service = await runtime.service()
    port = service.health_port
    assert await get(port, "/healthz") == (200, "ok\n")
    assert await get(port, "/readyz") == (200, "ready\n")
    held = await service.submit_task(task("wait"))
    await until(lambda: runtime.bot.asked == ["wait"])
    shown = (await get(port, "/metrics"))[1]
    namespace, crew = service.crew.split("/")
    labels = f'crew="{crew}",namespace="{namespace}"'
    assert f"watchbill_worker_tasks_running{{{labels}}} 1.0\n" in shown
    assert f'watchbill_queue_depth{{{labels},state="running"}} 1.0\n' in shown, "it has read the store"
    runtime.bot.let("wait")
    assert await service.get_result(held)
    await service.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(port, "/healthz")


async def test_a_service_with_a_wrong_port_says_so(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHBILL_HEALTH_PORT", "http")
    with pytest.raises(InvalidInput, match="WATCHBILL_HEALTH_PORT: 'http' can't be used"):
        await runtime.service()


async def test_a_service_waits_for_its_store_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WATCHBILL_HEALTH_PORT", "0")
    caplog.set_level(logging.WARNING, "watchbill.connection.outages")
    socket = tmp_path / "s"
    config = AgentServiceConfig(redis_url=f"unix://{socket}")
    with pytest.raises(StoreUnavailable):
        await AgentService(config, BotManager()).start()
    service = AgentService(config, BotManager())
    starting = asyncio.create_task(service.start(wait=True))
    server: Any = None
    try:
        await until(lambda: "waiting for the store" in caplog.text)
        assert await get(service.health_port, "/healthz") == (200, "ok\n"), "a probe needn't restart it"
        assert not starting.done()
        command = [str(local_server.find_server()), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        await starting
        assert service.get_status()["running"] is True
    finally:
        await service.stop()
        if server is not None:
            server.kill()
            await asyncio.to_thread(server.wait)


async def test_a_service_that_waits_for_its_store_obeys_sigterm(tmp_path: Path) -> None:
    config = AgentServiceConfig(redis_url=f"unix://{tmp_path}/s")
    command = [sys.executable, str(PROGRAM), config.model_dump_json(), str(tmp_path / "notes")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        assert "waiting for the store" in line
        process.send_signal(signal.SIGTERM)
        _, rest = await asyncio.to_thread(process.communicate, timeout=180)
        assert (process.returncode, "Traceback" in rest) == (0, False), rest
    finally:
        process.kill()
        process.wait()
