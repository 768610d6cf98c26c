"""Workers whose collector is away, or slow: no task is lost, nothing waits, and they end in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from workshop import AGENTS, Make

from otlp_collector import Collector
from waiting import until
from watchbill.tracing.switch import FLUSH_SECONDS


async def test_a_worker_keeps_so_many_spans_while_the_collector_is_slow_and_sends_them_later(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    bounds = {"OTEL_BSP_MAX_QUEUE_SIZE": "40", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    known = [f"t{n}" for n in range(100)]
    with Collector() as collector:
        collector.free.clear()
        process = await crew.worker(environment=collector.variables(**bounds))
        for task_id in known:
            await crew.submit(task_id, "a", "0")
        assert all(result.success for result in await crew.results(known))
        assert (collector.asked, collector.spans) == (1, [])
        collector.free.set()
        await process.drain()
    assert 40 <= len(collector.spans) <= 10 + 40 + 1, "the batch that was on its way, and the queue"


async def test_a_worker_says_once_that_its_collector_refuses_spans_and_once_that_it_takes_them(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    with Collector() as collector:
        collector.status = 401
        process = await crew.worker(environment=collector.variables())
        for n in range(3):
            await crew.submit(f"t{n}", "a", "0")
            assert (await crew.result(f"t{n}")).success
            await until(lambda asked=n: collector.asked > asked, what="a request")  # type: ignore[misc]
        await until(lambda: "takes no spans" in process.log, what="the warning")
        collector.status = 200
        await crew.submit("last", "a", "0")
        await collector.one("process", **{"messaging.message.id": "last"})
        await process.drain()
    assert process.log.count("takes no spans") == 1
    assert process.log.count("takes spans again") == 1
    assert "opentelemetry" not in process.log


async def test_a_worker_that_is_told_to_end_waits_no_longer_than_so_for_a_collector_that_hangs(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    settings = {"CREW": crew.name, "REDIS_URL": crew.url, "FOLDERS": str(AGENTS), "LOG_FORMAT": "json"}
    with Collector() as collector:
        collector.free.clear()
        hung = collector.variables(OTEL_EXPORTER_OTLP_TIMEOUT="3600")
        environment = os.environ | hung | {f"WATCHBILL_{name}": value for name, value in settings.items()}
        process = subprocess.Popen([sys.executable, "-m", "watchbill.worker"], env=environment)
        try:
            await crew.submit("t", "a", "0")
            assert (await crew.result("t")).success
            await until(lambda: collector.asked, what="a request")
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, "its collector would take an hour"
        finally:
            process.kill()
            process.wait()


STOPS_WHILE_IT_SENDS = """
import os, signal, time
from types import SimpleNamespace
from watchbill.tracing import exporting, switch

def shutdown():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.3)
    print("sent", flush=True)

exporting.Exporting.close(SimpleNamespace(provider=SimpleNamespace(shutdown=shutdown)), switch.FLUSH_SECONDS)
os._exit(0)
"""


async def test_a_process_that_gets_no_time_at_its_end_sends_its_spans_later() -> None:
    command = [sys.executable, "-c", STOPS_WHILE_IT_SENDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            await until(lambda: b") T " in Path(f"/proc/{process.pid}/stat").read_bytes(), what="its end")
            await asyncio.sleep(FLUSH_SECONDS + 1)
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate(timeout=180)
        finally:
            process.kill()
    assert said == "sent\n"
