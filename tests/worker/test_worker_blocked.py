"""Probes of a worker whose agent blocks the event loop: it is busy, and nothing may stop it."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from urllib.error import HTTPError

import aiohttp
import pytest
from workshop import Make

from waiting import until
from watchbill.worker.health import HealthServer


async def get(port: int, path: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_a_worker_is_ready_and_alive_while_an_agent_computes_on_its_event_loop(make_crew: Make) -> None:
    crew = await make_crew({"a": "Spinner"}, lease_seconds=3600)
    worker = await crew.worker(health=True)
    port = worker.hello["port"]
    await crew.submit("t", "a")
    await crew.started("t")
    for _ in range(3):
        assert await get(port, "/readyz") == (200, "ready\n")
        assert await get(port, "/healthz") == (200, "ok\n")
    assert "watchbill_build_info" in (await get(port, "/metrics"))[1]
    crew.open("t")
    assert (await crew.result("t")).output == "computed"
    assert (await get(port, "/readyz"))[0] == 200
    worker.kill()
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(port, "/healthz")


async def test_a_process_whose_event_loop_stands_still_for_too_long_is_not_alive_until_it_turns() -> None:
    async def nothing() -> None:
        pass

    server = HealthServer(nothing, lambda: True, stuck_seconds=0.05)
    await server.start("127.0.0.1", 0)
    found: list[tuple[int, int]] = []

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    def probe() -> None:
        for _ in range(1000):
            found.append((status("/healthz"), status("/readyz")))
            if found[-1][0] != 200:
                return

    try:
        probing = threading.Thread(target=probe)
        probing.start()
        probing.join()  # the loop stands still
        assert found[0] == (200, 200), "it may be busy"
        assert found[-1] == (503, 200)

        async def lives() -> bool:
            return await asyncio.to_thread(status, "/healthz") == 200

        await until(lives, what="an answer of the loop")
    finally:
        await server.close()
