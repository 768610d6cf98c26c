"""What a worker shows over HTTP: that it lives, that it is ready, and true figures."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from workshop import Crew, Make, agent, metrics_of

from ports import free_ports
from waiting import is_soon, until
from watchbill import __version__
from watchbill.errors import QueueFull
from watchbill.local import LocalCrews
from watchbill.worker.health import HealthServer, observe
from watchbill.worker.worker import Worker

LEASE = 5
"""Seconds. A test waits them out; a busy machine must not let a worker be silent for as long."""

PrivateRedis = Callable[[], Awaitable[Any]]


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def nothing() -> None:
    pass


@asynccontextmanager
async def served(crew: Crew, worker: Worker) -> AsyncIterator[int]:
    server = HealthServer(lambda: observe(crew.redis, [crew.keys]), lambda: not worker.drained)
    await server.start("127.0.0.1", 0)
    try:
        yield server.port
    finally:
        await server.close()


async def test_a_worker_is_ready_from_the_start_until_it_has_drained_and_no_longer(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"})
    async with crew.in_process(grace_seconds=30.0) as worker, served(crew, worker) as port:
        assert await get(port, "/readyz") == (200, "ready\n")
        assert await get(port, "/healthz") == (200, "ok\n")
        await crew.submit("t", "a")
        await crew.started("t")
        worker.stop()
        assert (await get(port, "/readyz"))[0] == 200, "it still has work: nobody may shut it down for idle"
        crew.open()
        await until(lambda: worker.drained)
        assert await get(port, "/readyz") == (503, "drained\n")
        assert (await get(port, "/healthz"))[0] == 200
        assert (await get(port, "/nothing"))[0] == 404
    assert (await crew.result("t")).success


async def test_a_draining_worker_that_is_not_idle_stays_ready(make_crew: Make) -> None:
    """Scale-in takes away what isn't ready."""
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    async with crew.in_process() as worker, served(crew, worker) as port:
        await crew.submit("t", "a")
        await crew.started("t")
        await crew.client.drain(crew.name, worker._state.incarnation.name)
        await until(lambda: worker._state.draining, what="the drain")
        assert (await get(port, "/readyz"))[0] == 200
        crew.open()
        assert (await crew.result("t")).success
        await until(lambda: worker.drained)
        assert (await get(port, "/readyz"))[0] == 503


async def test_a_service_is_ready_while_it_serves_and_its_port_is_free_afterwards(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    async with LocalCrews(crew.url, crews=[crew.name], grace_seconds=0) as crews:
        server = await crews.serve_health("127.0.0.1", *free_ports(1))
        assert (await get(server.port, "/readyz"))[0] == 200
    again = HealthServer(nothing, lambda: True)
    await again.start("127.0.0.1", server.port)
    await again.close()


async def test_the_metrics_are_those_of_what_really_happens(make_crew: Make) -> None:
    crew = await make_crew(
        [agent("gate", "Gate"), agent("brief", "Brief"), agent("bad", "Mischief"), agent("poison", "Poison")],
        tasks={"max_attempts": 1},
        concurrency=2,
        lease_seconds=3600,
    )
    await crew.submit("p", "poison")
    victim = await crew.worker(doomed=True)
    await victim.ended()
    await crew.queue.declare_dead([*await crew.incarnations(victim)])
    worker = await crew.worker(health=True, figures_seconds=60)

    async def figures() -> dict[tuple[str, ...], float]:
        return await metrics_of(worker.metrics_url, crew.name)

    assert (await crew.result("p")).success is False
    await crew.submit("ok-1", "brief", "0.2")
    await crew.submit("ok-2", "brief")
    await crew.submit("bad", "bad", "ValueError")
    await crew.results(["ok-1", "ok-2", "bad"])
    await until(lambda: crew.has_counted(worker, 4), what="the count of what has ended")

    before = time.monotonic()
    for number in range(5):
        await crew.submit(f"g{number}", "gate")
    await crew.started("g0", "g1")
    await until(lambda: crew.runs(worker, 2), what="the gauge")
    await asyncio.sleep(0.3)
    now = await figures()
    passed = time.monotonic() - before
    assert now["watchbill_queue_depth", "running"] == 2
    assert now["watchbill_queue_depth", "waiting"] == 3
    assert now["watchbill_queue_depth", "parked"] == 0
    assert now["watchbill_queue_depth", "dead"] == 2
    assert 0.3 <= now["watchbill_queue_oldest_seconds",] <= passed + 0.1
    assert now["watchbill_workers",] == 1
    assert now["watchbill_worker_tasks_running",] == 2
    assert now["watchbill_build_info", __version__] == 1
    outcomes = {key[1:]: value for key, value in now.items() if key[0] == "watchbill_tasks_total"}
    assert outcomes == {("brief", "completed"): 2, ("bad", "dead"): 1, ("poison", "dead"): 1}
    assert now["watchbill_takeovers_total",] == 1
    assert now["watchbill_tasks_claimed_total", "normal"] == 6, "poison, ok-1, ok-2, bad and two gates"
    assert now["watchbill_queue_class_waiting", "normal"] == 3
    assert ("watchbill_queue_class_waiting", "critical") not in now, "no task had it"
    assert now["watchbill_queue_class_oldest_seconds", "normal"] >= 0.3
    assert now["watchbill_task_run_seconds_count", "brief"] == 2
    assert 0.19 <= now["watchbill_task_run_seconds_sum", "brief"] < 300
    assert now["watchbill_task_wait_seconds_count",] == 5, "all but the dead one, which another had before"
    waited = now["watchbill_task_wait_seconds_sum",]
    assert 0 <= waited < 300, "they found a free slot"

    await crew.submit("last", "brief")
    await asyncio.sleep(0.5)
    crew.open()
    await crew.results([*(f"g{number}" for number in range(5)), "last"])
    await until(lambda: crew.has_counted(worker, 10), what="the count of what has ended")
    await until(lambda: crew.runs(worker, 0), what="the gauge going back")
    now = await figures()
    assert [now["watchbill_queue_depth", state] for state in ("waiting", "running")] == [0, 0]
    assert now["watchbill_queue_oldest_seconds",] == 0
    assert now["watchbill_tasks_total", "gate", "completed"] == 5
    assert now["watchbill_task_wait_seconds_sum",] > waited + 3 * 0.7, "three gates waited for a slot"
    another = await crew.worker()
    assert (await figures())["watchbill_workers",] == 2
    await another.drain()
    assert (await figures())["watchbill_workers",] == 1


async def test_what_a_worker_lost_and_took_over_is_counted(make_crew: Make) -> None:
    crew = await make_crew({"a": "SayingGate"}, lease_seconds=LEASE)
    zombie = await crew.worker(health=True)
    await crew.submit("t", "a")
    await crew.started("t")
    zombie.signal(signal.SIGSTOP)
    healthy = await crew.worker(health=True)
    await until(lambda: "t" in crew.started_by(healthy))
    assert (await metrics_of(healthy.metrics_url, crew.name))["watchbill_takeovers_total",] == 1
    zombie.signal(signal.SIGCONT)
    await until(lambda: "silent" in zombie.log)
    now = await metrics_of(zombie.metrics_url, crew.name)
    assert now["watchbill_worker_fenced_total",] == 1
    assert ("watchbill_tasks_total", "a", "completed") not in now
    await until(lambda: crew.runs(zombie, 0), what="the gauge going back")


async def test_what_could_not_begin_with_its_claim_is_timed_until_it_did(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    worker = await crew.worker(health=True)
    await crew.submit("first", "a")  # its definition must be read
    await crew.result("first")
    await until(lambda: crew.has_counted(worker, 1))
    held = ("watchbill_task_begin_delay_seconds_count",)
    assert (await metrics_of(worker.metrics_url, crew.name))[held] == 1
    for number in range(3):
        await crew.submit(f"t{number}", "a")
        await crew.result(f"t{number}")
    assert (await metrics_of(worker.metrics_url, crew.name))[held] == 1, "they began with their claim"
    await crew.submit("large", "a", "0.0" + "0" * 5000)
    await crew.result("large")
    now = await metrics_of(worker.metrics_url, crew.name)
    assert now[held] == 2, "its payload didn't come along"
    assert 0 < now["watchbill_task_begin_delay_seconds_sum",] < 300
    assert now["watchbill_tasks_claimed_total", "normal"] == 5


async def _is_more(count: Callable[[], Awaitable[float]], before: float) -> bool:
    return await count() > before


async def test_a_renewal_that_comes_late_is_counted(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, lease_seconds=LEASE)
    worker = await crew.worker(health=True)

    async def late() -> float:
        return (await metrics_of(worker.metrics_url, crew.name)).get(("watchbill_lease_renewals_late_total",), 0)

    async def is_counted() -> bool:
        before = await late()
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE * 0.6)  # one that is stopped for longer than its lease is another worker then
        worker.signal(signal.SIGCONT)
        with suppress(AssertionError):
            return bool(await until(lambda: _is_more(late, before), LEASE))
        return False

    await until(is_counted)


async def test_refused_submissions_are_in_the_metrics(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, tasks={"max_queued": 1})
    worker = await crew.worker(health=True, figures_seconds=60)
    await crew.submit("t1", "a")
    for _ in range(2):
        with pytest.raises(QueueFull):
            await crew.submit("t2", "a")
    now = await metrics_of(worker.metrics_url, crew.name)
    assert now["watchbill_submissions_refused_total",] == 2
    crew.open()


async def test_a_parked_task_is_in_the_metrics(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    worker = await crew.worker(folders=(), health=True)
    await crew.submit("t", "a")

    async def is_shown() -> bool:
        return (await metrics_of(worker.metrics_url, crew.name)).get(("watchbill_queue_depth", "parked")) == 1

    await until(is_shown)


async def test_a_scrape_answers_soon_and_with_the_last_figures_while_the_store_is_away(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    """Prometheus gives a scrape 10 s; a worker that can't be seen when it matters most is not observable."""
    server = await private_redis()
    crew = await make_crew({"a": "Gate"}, url=server.url)
    worker = await crew.worker(health=True)
    await crew.submit("t", "a")
    await crew.started("t")

    async def is_shown() -> bool:
        return (await metrics_of(worker.metrics_url, crew.name)).get(("watchbill_queue_depth", "running")) == 1

    await until(is_shown)

    async def look() -> None:
        now = await metrics_of(worker.metrics_url, crew.name)
        assert now["watchbill_queue_depth", "running"] == 1
        assert (await get(worker.hello["port"], "/readyz"))[0] == 200, "never for the store's sake"
        assert (await get(worker.hello["port"], "/healthz"))[0] == 200

    for away in (server.pause, server.kill):
        gone = away()
        if gone is not None:
            await gone
        assert await is_soon(look, 9)
