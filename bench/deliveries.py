"""Deliveries of one worker: how many webhooks a second, and what a dead receiver costs the crew's own tasks.

    python -m bench.deliveries [--webhooks 5000] [--dead 10000] [--probes 2000] [--json FILE]

`rate`: so many results are in the outbox when the worker starts; counted is what a receiver in this process takes, from
the first webhook to the last. The worker moves them, sends each by HTTP on this machine, and notes that in the store.
CPU is the worker's own.

`dead`: three servers, each with a crew and its worker. `quiet` delivers nothing. `served` has delivered one result, and
nothing waits. `loud` has so many deliveries to a port at which nobody listens. Once all of them wait for their next
attempt, each crew is given one task after the other, in turn, while the deliveries are tried and put off; what the
machine does meanwhile hits all alike. The ratios of their latencies, and the differences of the CPU that workers and
servers used, are what delivering costs (loud/quiet), and what the dead receiver costs (loud/served). A p99 is only
worth something where many latencies are beyond it, 20 of 2000; `low` and `high` are the bounds of the ratio in 90 of
100 draws from these.

Exits with 1 when a delivery is missing, or came twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from bench import ours, processes, server

from watchbill.api.delivery import Destination
from watchbill.client import Client
from watchbill.tasks import AgentTask

GOAL_RATE, GOAL_RATIO = 1000.0, 1.1
PAUSE_SECONDS = 0.1
DRAWS = 500
ALLOW = {"WATCHBILL_DELIVERY_ALLOW": "loopback", "WATCHBILL_ALLOW_MODULES": "bench"}


def destination(port: int) -> Destination:
    return Destination.model_validate({"name": "hook", "webhook": {"url": f"http://127.0.0.1:{port}/"}})


@asynccontextmanager
async def receiving(got: Counter[str], times: list[float]) -> AsyncIterator[int]:
    """A receiver's port. It counts ids, and notes when each message came."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        got[request.headers["webhook-id"]] += 1
        times.append(time.perf_counter())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def fill(client: Client, crew: str, to: Destination, count: int) -> None:
    """Puts results into the outbox: of tasks that were cancelled, so that no worker needs to run any."""
    work = [AgentTask(task_id=f"t{n}", agent_name=ours.AGENT, prompt=f"{n}") for n in range(count)]
    await client.submit_many(crew, ours.AGENT, work, deliver=[to])
    assert (await client.cancel_all(crew)).cancelled == count


async def rate(count: int, folder: Path) -> dict[str, float]:
    got: Counter[str] = Counter()
    times: list[float] = []
    written = ours.ledger(folder)
    async with server.private() as store, Client(store.url) as client, receiving(got, times) as port:
        await ours.register(store, ours.definition("rate", "noop"))
        await fill(client, "rate", destination(port), count)
        async with ours.pod_worker(store, "rate", written, folder / "log", ALLOW) as worker:

            async def begun() -> bool:
                return bool(times)

            async def done() -> bool:
                figures = (await client.figures("rate")).deliveries
                return figures is not None and figures.waiting + figures.running + figures.delayed == 0

            await ours.until(begun, worker, 60, "the first webhook", poll=0.001)
            await store.reset()
            cpu, before = ours.cpu_seconds(worker.process.pid), len(times)
            await ours.until(done, worker, 600, "all delivered", poll=0.2)
            counted = len(times) - before
            cpu, cost = ours.cpu_seconds(worker.process.pid) - cpu, await store.cost()
    seconds = times[-1] - times[before]
    return {
        "webhooks/s": counted / seconds,
        "webhooks per second of the worker's CPU": counted / cpu,
        "server us/webhook": cost.cpu_seconds / counted * 1e6,
        "missing": count - len(got),
        "twice": sum(times > 1 for times in got.values()),
    }


async def dead(count: int, probes: int, folder: Path) -> dict[str, float]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    latencies: dict[str, list[float]] = {"quiet": [], "served": [], "loud": []}
    async with AsyncExitStack() as stack:
        clients, workers, stores = {}, {}, {}
        for name in latencies:
            store = stores[name] = await stack.enter_async_context(server.private())
            client = clients[name] = await stack.enter_async_context(Client(store.url))
            (folder / name).mkdir()
            written = ours.ledger(folder / name)
            await ours.register(store, ours.definition(name, "noop"))
            working = ours.pod_worker(store, name, written, folder / name / "log", ALLOW)
            workers[name] = await stack.enter_async_context(working)
            await client.run(name, "0", agent=ours.AGENT, timeout=60)
        await _serve(clients["served"], workers["served"])
        loud = clients["loud"]
        work = [AgentTask(task_id=f"d{n}", agent_name=ours.AGENT, prompt="0") for n in range(count)]
        await loud.submit_many("loud", ours.AGENT, work, deliver=[destination(port)])
        await ours.until(lambda: _all_wait(loud, count), workers["loud"], 600, "all waiting", poll=0.1)
        cpu = {name: ours.cpu_seconds(working.process.pid) for name, working in workers.items()}
        for store in stores.values():
            await store.reset()
        since = time.perf_counter()
        names = list(latencies)
        for number in range(probes):
            for name in names[number % 3 :] + names[: number % 3]:
                began = time.perf_counter()
                await clients[name].run(name, "0", agent=ours.AGENT, timeout=60)
                latencies[name].append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
        took = (time.perf_counter() - since) / 100
        used = {
            name: (
                (ours.cpu_seconds(workers[name].process.pid) - cpu[name]) / took,
                (await stores[name].cost()).cpu_seconds / took,
            )
            for name in names
        }
        figures = (await loud.figures("loud")).deliveries
    found = _latencies(latencies)
    for name, (worker, store_) in used.items():
        found |= {f"worker {name} % of a core": worker, f"server {name} % of a core": store_}
    waiting = figures.delayed + figures.waiting + figures.running if figures else 0
    return found | {"still to be delivered": waiting}


async def _serve(client: Client, worker: processes.Worker) -> None:
    """Has the worker deliver one result."""
    got: Counter[str] = Counter()
    async with receiving(got, []) as port:
        work = [AgentTask(task_id="d", agent_name=ours.AGENT, prompt="0")]
        await client.submit_many("served", ours.AGENT, work, deliver=[destination(port)])
        await ours.until(lambda: bool(got), worker, 60, "delivered", poll=0.01)


def _latencies(measured: Mapping[str, Sequence[float]]) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99}
    found = {f"{q} {name} ms": quantile(values, at) for name, values in measured.items() for q, at in shares.items()}
    for base in ("quiet", "served"):
        for q in shares:
            found[f"{q} loud/{base}"] = found[f"{q} loud ms"] / found[f"{q} {base} ms"]
        low, high = spread(measured[base], measured["loud"])
        found |= {f"p99 loud/{base} low": low, f"p99 loud/{base} high": high}
    return found


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def spread(quiet: Sequence[float], loud: Sequence[float]) -> tuple[float, float]:
    """The bounds of the ratio of their p99 in 90 of 100 draws from what was measured."""
    draw = random.Random(1)

    def once(values: Sequence[float]) -> float:
        return quantile(draw.choices(values, k=len(values)), 0.99)

    ratios = [once(loud) / once(quiet) for _ in range(DRAWS)]
    return quantile(ratios, 0.05), quantile(ratios, 0.95)


async def _all_wait(client: Client, count: int) -> bool:
    figures = (await client.figures("loud")).deliveries
    return figures is not None and figures.delayed == count


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    parser = argparse.ArgumentParser(
        prog="python -m bench.deliveries", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--webhooks", type=int, default=5000)
    parser.add_argument("--dead", type=int, default=10_000)
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        (Path(folder) / "dead").mkdir()
        found = {
            "rate": asyncio.run(rate(arguments.webhooks, Path(folder))),
            "dead": asyncio.run(dead(arguments.dead, arguments.probes, Path(folder) / "dead")),
        }
    for what, values in found.items():
        for name, value in values.items():
            print(f"{what:5} {name:42} {value:10.2f}")
    print(f"goals: {GOAL_RATE:.0f} webhooks/s, p99 ratio below {GOAL_RATIO}; load {os.getloadavg()[0]:.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")
    broken = found["rate"]["missing"] or found["rate"]["twice"]
    return 1 if broken or found["dead"]["still to be delivered"] != arguments.dead else 0


if __name__ == "__main__":
    sys.exit(main())
