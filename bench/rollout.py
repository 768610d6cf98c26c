"""A rollout under steady load: is any task begun twice, how soon is the old revision gone, and what does throughput do?

    python -m bench.rollout [--rate 200] [--shortest 1] [--longest 60] [--concurrency 500] [--steady 30] [--json FILE]

The operator on a control plane without nodes; a process of this machine acts each pod (bench/rollout_pods.py). Tasks
come evenly, --rate a second, and each sleeps for --shortest to --longest seconds. The operator scales the crew to as
many workers as that takes. Once as many tasks end as are submitted, and --steady seconds later, an annotation of the
pods' template changes, and with it the revision. The load goes on until the old revision is gone.

- Begun twice: tasks whose agent began more than once, by a ledger outside the queue. Lost: those that did not end.
- The old revision is gone when a watch says that its Deployment is deleted. The time begins with the change.
- Throughput is the number of tasks that ended within a second, as a share of --rate. The durations are spread so
  evenly over each second's tasks that, were each begun at once, about --rate of them would end in each second. It is
  counted in seconds of the wall clock, and in spans of five, which a hiccup of this machine disturbs less; before the
  change, and from the change until the old revision is gone.

Exits with 1 if a task was begun twice or lost, or a worker did not end well. A slow machine is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import operator_plane
from bench.operator_plane import NAMESPACE
from bench.operator_watch import Watch
from bench.ours import Ledger, ledger
from bench.rollout_pods import Pods
from e2e.cluster import control_plane as planes
from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.machine import ClusterError
from e2e.control_plane import operator_process
from e2e.control_plane.operator_process import Store

from watchbill import cluster_names
from watchbill.client import Client
from watchbill.errors import WatchbillError
from watchbill.names import CrewKeys

CREW: Final = "rolling"
ACCOUNT: Final = "operator"
GONE_GOAL: Final = 10.0
"""Seconds beyond the longest task."""
THROUGHPUT_GOAL: Final = 0.8
SPAN: Final = 5
TICK: Final = 0.05
"""Seconds between two submissions: what is due by then is submitted together."""
START_SECONDS = 120.0
GONE_SECONDS = 600.0
GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass
class Found:
    """The measurements. Times in s from the change of the template on, throughput as a share of the rate."""

    environment: dict[str, Any] = field(default_factory=dict)
    workers: int = 0
    """The workers that there were before the change."""
    tasks: int = 0
    twice: int = 0
    lost: int = 0
    drained: float | None = None
    """The time until each worker of the old revision claimed no more."""
    gone: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    during: dict[str, float] = field(default_factory=dict)
    late_ms: float = 0.0
    """The longest time that a submission was late."""
    sizes: list[tuple[float, str, int, int]] = field(default_factory=list)
    """(time, revision, size, ready workers) whenever that changed."""
    wrong: list[str] = field(default_factory=list)
    """Findings that must not be."""


@dataclass
class Load:
    """Submits tasks evenly until it is cancelled."""

    rate: float
    shortest: float
    longest: float
    count: int = 0
    latest: float = 0.0
    """By how many seconds a submission was late, at most."""

    def seconds(self, number: int) -> float:
        """Returns how long a task sleeps. Any run of numbers is spread evenly from the shortest to the longest."""
        return self.shortest + (self.longest - self.shortest) * (number * GOLDEN % 1)

    async def run(self, client: Client) -> None:
        start = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            due = int((time.perf_counter() - start) * self.rate)
            numbers = range(self.count + 1, due + 1)
            if numbers:
                self.count = due
                prompts = [f"{number} {self.seconds(number):.3f}" for number in numbers]
                await client.submit_many(f"{NAMESPACE}/{CREW}", "echo", prompts)
                self.latest = max(self.latest, time.perf_counter() - start - numbers[0] / self.rate)


def throughput(ends: Iterable[float], rate: float, begin: float, end: float, span: int = 1) -> float:
    """Returns the lowest share of the rate at which tasks ended within `span` whole seconds from `begin` to `end`."""
    counts = Counter(math.floor(at - begin) for at in ends if begin <= at)
    seconds = int(end - begin)
    spans = [sum(counts[second + i] for i in range(span)) for second in range(seconds - span + 1)]
    return min(spans, default=0) / (span * rate)


async def measure(arguments: argparse.Namespace) -> Found:
    found = Found()
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "store").mkdir()
        store, written = Store(folder / "store"), ledger(folder)
        machine.say("starting a control plane, a store and the operator")
        try:
            store.start()
            flags = operator_plane.CONTROLLER_FLAGS
            with planes.running(folder / "plane", controller_manager_flags=flags) as plane:
                (kubeconfig,) = operator_plane.prepare(plane, store, ACCOUNT)
                port = operator_plane.free_port()
                with operator_process.operator(kubeconfig, store.url, folder, health_port=str(port)) as operator:
                    operator.start()
                    operator_plane.until_ready(operator, port)
                    workers = {
                        "WATCHBILL_REDIS_URL": store.url,
                        "WATCHBILL_ALLOW_MODULES": "bench",
                        "BENCH_LEDGER": str(written.path),
                    }
                    selector = f"{cluster_names.LABEL_CREW}={CREW}"
                    async with (
                        Pods(plane, NAMESPACE, selector, folder, workers) as pods,
                        Watch(plane.kubectl, operator_plane.deployments_path()) as deployments,
                        Client(store.url) as client,
                    ):
                        await _measure(found, arguments, plane, store, client, deployments, written)
                        found.wrong += pods.wrong
        finally:
            store.client.close()
            store.kill()
    return found


async def _measure(
    found: Found,
    arguments: argparse.Namespace,
    plane: ControlPlane,
    store: Store,
    client: Client,
    deployments: Watch,
    written: Ledger,
) -> None:
    load = Load(arguments.rate, arguments.shortest, arguments.longest)
    needed = math.ceil(load.rate * (load.shortest + load.longest) / 2 / arguments.concurrency)
    workers = {"concurrency": arguments.concurrency, "maxReplicas": 2 * needed}
    plane.kubectl.apply(operator_plane.crew(CREW, "bench.agents:nap", workers=workers), namespace=NAMESPACE)
    plane.kubectl("wait", "crew", CREW, f"--namespace={NAMESPACE}", "--for=condition=Ready", "--timeout=60s")
    found.environment = {
        "Kubernetes": recipe.KUBERNETES,
        "tasks a second": load.rate,
        "concurrency": arguments.concurrency,
    }
    machine.say(f"submitting {load.rate:g} tasks a second, of {load.shortest:g} to {load.longest:g} s")
    submitting = asyncio.create_task(load.run(client))
    await _settled(submitting, load.longest + START_SECONDS / 10)
    await _until_all_claim(deployments, store)
    begin = time.time()
    await _settled(submitting, arguments.steady)

    (old,) = deployments.objects
    found.workers = deployments.objects[old]["spec"]["replicas"]
    machine.say(f"changing the template of {found.workers} workers")
    changed, at, since = time.time(), time.perf_counter(), len(deployments.events)
    annotation = {"metadata": {"annotations": {"bench": "2"}}}
    patch = json.dumps({"spec": {"workers": {"template": annotation}}})
    words = ("patch", "crew", CREW, f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}")
    watching = asyncio.create_task(_watch_drain(found, store, at))
    await asyncio.to_thread(plane.kubectl, *words)
    try:
        await deployments.until(
            lambda: submitting.done() or old not in deployments.objects,
            within=load.longest + GONE_SECONDS,
            what="the old revision is gone",
        )
        if submitting.done():
            submitting.result()
    finally:
        watching.cancel()
    gone = next(seen for seen in deployments.events[since:] if seen.kind == "DELETED")
    found.gone = gone.at - at
    found.sizes = _sizes(deployments, since, at)
    machine.say(f"the old revision is gone after {found.gone:.1f} s; waiting for the end of what runs")
    submitting.cancel()
    await asyncio.wait([submitting])
    found.late_ms, found.tasks = 1000 * load.latest, load.count
    await _until_ended(written, load)
    _judge(found, written.read(), load, begin, changed)


async def _settled(submitting: asyncio.Task[None], seconds: float) -> None:
    """Waits. Raises what ended the submissions."""
    await asyncio.wait([submitting], timeout=seconds)
    if submitting.done():
        submitting.result()


async def _until_all_claim(deployments: Watch, store: Store) -> None:
    """Nothing waits, and each pod is ready."""
    keys = CrewKeys(NAMESPACE, CREW)

    def is_steady() -> bool:
        (one,) = deployments.objects.values()
        running = int(store.client.hlen(keys.holders))
        there = sum(int(store.client.xlen(stream)) for stream in keys.streams)
        return one.get("status", {}).get("readyReplicas") == one["spec"]["replicas"] and there - running < 0.1 * there

    await deployments.until(is_steady, within=START_SECONDS, what="the workers take all that comes", every=0.5)


async def _watch_drain(found: Found, store: Store, at: float) -> None:
    """Notes when as many workers drain as there were before the change."""
    meta = CrewKeys(NAMESPACE, CREW).meta
    while found.drained is None:
        fields: Any = store.client.hkeys(meta)
        if sum(str(name).startswith("drain:") for name in fields) >= found.workers:
            found.drained = time.perf_counter() - at
        await asyncio.sleep(0.1)


def _sizes(deployments: Watch, since: int, at: float) -> list[tuple[float, str, int, int]]:
    found: list[tuple[float, str, int, int]] = []
    last: dict[str, tuple[int, int]] = {}
    for seen in deployments.events[since:]:
        revision = str(seen.object["metadata"]["labels"][cluster_names.LABEL_REVISION])
        size = (int(seen.object["spec"]["replicas"]), int(seen.object.get("status", {}).get("readyReplicas") or 0))
        if last.get(revision) != size:
            last[revision] = size
            found.append((round(seen.at - at, 2), revision, *size))
    return found


async def _until_ended(written: Ledger, load: Load) -> None:
    """Waits until each task has ended, or no longer than that can take."""
    deadline = time.monotonic() + load.longest + START_SECONDS
    while time.monotonic() < deadline:
        ended = {number for number, _ in written.read() if number < 0}
        if len(ended) == load.count:
            return
        await asyncio.sleep(1.0)


def _judge(found: Found, lines: Sequence[tuple[int, float]], load: Load, begin: float, changed: float) -> None:
    begins = Counter(number for number, _ in lines if number > 0)
    ends = {-number: at for number, at in lines if number < 0}
    found.twice = sum(count > 1 for count in begins.values())
    found.lost = sum(number not in ends for number in range(1, found.tasks + 1))
    for what, span in (("1 s", 1), (f"{SPAN} s", SPAN)):
        found.before[what] = throughput(ends.values(), load.rate, begin, changed, span)
        found.during[what] = throughput(ends.values(), load.rate, changed, changed + found.gone, span)
    if found.twice or found.lost:
        found.wrong.append(f"{found.twice} tasks were begun twice, and {found.lost} have not ended")


def main() -> int:
    arguments = _arguments()
    load = os.getloadavg()[0]
    try:
        found = asyncio.run(measure(arguments))
    except (ClusterError, TimeoutError, WatchbillError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    found.environment |= operator_plane.surroundings(load)
    print("\n" + ", ".join(f"{what}: {value}" for what, value in found.environment.items()) + "\n")
    _print(found, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    for wrong in found.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    return 1 if found.wrong else 0


def _print(found: Found, arguments: argparse.Namespace) -> None:
    def lowest(shares: Mapping[str, float]) -> str:
        return ", ".join(f"{share:.0%} in {span}" for span, share in shares.items())

    goal = arguments.longest + GONE_GOAL
    met = "met" if found.gone <= goal else "not met"
    is_steady = "met" if found.during["1 s"] >= THROUGHPUT_GOAL else "not met"
    drained = "never" if found.drained is None else f"{found.drained:.1f} s"
    print(f"a rollout of {found.workers} workers; {found.tasks} tasks, submitted at most {found.late_ms:.0f} ms late")
    print(f"{'  tasks begun twice; lost':<44} {found.twice}; {found.lost} (must be 0)")
    print(f"{'  the change → each old worker drains':<44} {drained}")
    print(f"{'  the change → the old revision is gone':<44} {found.gone:.1f} s (goal: <= {goal:g} s, {met})")
    print(f"{'  lowest throughput before the change':<44} {lowest(found.before)}")
    goal_share = f"{THROUGHPUT_GOAL:.0%} in 1 s"
    print(f"{'  lowest throughput from it until then':<44} {lowest(found.during)} (goal: {goal_share}, {is_steady})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200, help="tasks submitted each second (default: 200)")
    parser.add_argument("--shortest", type=float, default=1, help="seconds of the shortest task (default: 1)")
    parser.add_argument("--longest", type=float, default=60, help="seconds of the longest task (default: 60)")
    parser.add_argument("--concurrency", type=int, default=500, help="tasks that a worker runs at once (default: 500)")
    parser.add_argument("--steady", type=float, default=30, help="seconds that are measured before (default: 30)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
