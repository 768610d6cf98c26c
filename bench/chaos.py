"""All at once, while work goes on: workers killed, stopped and terminated, the store killed, the network at its worst.

    python -m bench.chaos [--storm NAME] [--tasks 10000] [--seconds 120] [--workers 4] [--lease 3] [--seed N]
    python -m bench.chaos --short      1,000 tasks within a minute, and 300 in each of the other storms

Workers (`python -m watchbill.worker`) and clients reach the store through a TCP proxy that resets connections, cuts
requests and answers in the middle, delays, stalls, and swallows everything for a while; workers are killed (kill -9),
stopped for longer than their lease, and terminated; the store (AOF, `appendfsync always`) is killed and restarted, and
has no memory left. Work is single tasks, tasks for later and runs of three steps, some of which fail and are tried
again, or fail for good; agents run on the loop, in threads and in processes. docs/bench.md says what is checked.

That is the storm `faults`. In `clock`, the store's clock is set forth and back as well (by libfaketime). In `rollback`,
the store loses its last writes, as at a failover; all work is submitted once more afterwards, under the same ids.

The seed is printed: the same one gives the same work and the same faults, though not the same moments. Exits with 1
when something was lost, doubled, wrong or left over, or when nothing bad ever happened.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import redis.asyncio
from bench import chaos_check, chaos_faults, chaos_work, processes
from bench.chaos_work import CREW, Work
from bench.clock import MISSING, Clock, library
from bench.environments import Environment
from bench.processes import Broken

from watchbill import connection
from watchbill.client import Client
from watchbill.errors import NotFound, StoreUnavailable, WatchbillError
from watchbill.names import CrewKeys
from watchbill.store import definitions, figures
from watchbill.store.queue import Queue

T = TypeVar("T")

KEYS: Final = CrewKeys("default", CREW)
CLIENTS: Final = 3
CALM_SECONDS: Final = 60.0
"""Once nothing bad happens any more, all must be done within this."""
FAULT_EVERY_SECONDS: Final = 1.0
TROUBLE_EVERY_SECONDS: Final = 0.25
SHOWN: Final = 20
OTHERS_PART: Final = 0.3
"""The part of the first storm's work and time that each of the others has."""
BAD: Final = (*("reset", "cut request", "cut reply", "delay", "stall", "blip", "hole"),)


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    tasks: int
    seconds: float
    """For so long work comes in, and bad things happen."""
    workers: int
    lease: int
    seed: str
    storm: str

    def chance(self, of: str) -> random.Random:
        return random.Random(f"{self.seed}/{of}")


@dataclass
class Giving:
    """The clients that give work, and the answers that they got."""

    may_lose: bool
    """True if acknowledged work may be lost, and will be submitted again."""
    due: dict[str, float] = field(default_factory=dict)
    waited: dict[str, bool] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    """Calls that were not acknowledged, and made again."""
    repeated: int = 0
    """Submissions that were made again although they had been acknowledged."""
    waiting: set[asyncio.Task[None]] = field(default_factory=set)

    async def acknowledged(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StoreUnavailable:
                self.refused += 1
                await asyncio.sleep(0.1)

    async def give(self, client: Client, waves: Sequence[Sequence[Work]], pause: float, chance: random.Random) -> None:
        """Submits wave after wave, each acknowledged, with pauses of about so many seconds."""
        for wave in waves:
            began = time.monotonic()
            alone = [self._alone(client, work) for work in wave if work.alone or work.due_in]
            bulk = [work for work in wave if not (work.alone or work.due_in)]
            many = [[work for work in bulk if work.agent == agent] for agent in chaos_work.AGENTS]
            await asyncio.gather(*alone, *(self._many(client, work, chance) for work in many if work))
            await asyncio.sleep(max(chance.uniform(0.5, 1.5) * pause - (time.monotonic() - began), 0))

    async def _many(self, client: Client, work: Sequence[Work], chance: random.Random) -> None:
        """One agent's."""
        tasks = [one.task() for one in work]
        for again in range(1 + (chance.random() < 0.2)):
            ids = await self.acknowledged(lambda: client.submit_many(CREW, work[0].agent, tasks))
            self.repeated += again * len(tasks)
            if ids != [one.id for one in work]:
                self.wrong.append(f"submission of {[one.id for one in work]} answered with {ids}")
        for one in work:
            if one.waited:
                self._wait(client, one)

    async def _alone(self, client: Client, work: Work) -> None:
        options: dict[str, Any] = {"agent": work.agent or None, "id": work.id, "priority": work.priority}
        if work.due_in:
            due = datetime.now(UTC) + timedelta(seconds=work.due_in)
            self.due.setdefault(work.id, due.timestamp())
            options["scheduled_at"] = due
        await self.acknowledged(lambda: client.submit(CREW, work.prompt, **options))
        if work.waited:
            self._wait(client, work)

    def _wait(self, client: Client, work: Work) -> None:
        async def wait() -> None:
            try:
                result = await self.acknowledged(lambda: client.wait(CREW, work.id))
            except NotFound as error:
                if not self.may_lose:
                    self.wrong.append(f"who waited for {work.id} was told: {error}")
                return
            self.waited[work.id] = result.success

        task = asyncio.create_task(wait())
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)


@dataclass(frozen=True)
class Outcome:
    """The findings of a run."""

    plan: Plan
    figures: dict[str, float]
    did: dict[str, int]
    wrong: list[str]


async def run(plan: Plan, folder: Path) -> Outcome:
    """Torments, calms down, and looks. Raises Broken when a process ends that shouldn't, or doesn't end."""
    work = chaos_work.made(plan.tasks, plan.lease, plan.chance("work"))
    ledger = folder / "ledger"
    ledger.touch()
    clock = Clock(folder) if plan.storm == "clock" else None
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(chaos_faults.store(folder, clock))
        proxy = await stack.enter_async_context(_proxy(plan, store, folder))
        url = f"redis://127.0.0.1:{proxy.about['port']}/0"
        variables = {"CHAOS_LEDGER": str(ledger), "CHAOS_SEED": plan.seed}
        variables |= {"WATCHBILL_CREW": f"default/{CREW}", "WATCHBILL_REDIS_URL": url}
        variables |= {"WATCHBILL_ALLOW_MODULES": "bench"}
        torment = chaos_faults.Torment(store, folder, variables, plan.lease, plan.storm, plan.chance("faults"))
        stack.push_async_callback(torment.close)
        direct = await stack.enter_async_context(connection.connected(store.url))
        queue = Queue(direct, KEYS, await definitions.apply(direct, KEYS, chaos_work.crew(plan.lease)))
        for _ in range(plan.workers):
            await torment.add()
        clients = [await stack.enter_async_context(Client(url)) for _ in range(CLIENTS)]
        giving = Giving(may_lose=plan.storm == "rollback")
        began = time.monotonic()
        await _storm(plan, torment, giving, clients, work)
        await torment.calm()
        did = await proxy.ask("calm")
        _say(f"{time.monotonic() - began:.0f} s: calm")
        if plan.storm == "rollback":  # what was acknowledged may be lost: to submit it again is safe
            await giving.give(clients[0], list(chaos_work.waves(work, plan.chance("again"))), 0, plan.chance("again"))
        left = await _done(queue, torment, giving)
        seconds = time.monotonic() - began
        await torment.drain()
        evidence = await _evidence(direct, torment, giving, work, ledger)
    evidence.left[:0] = left
    wrong = giving.wrong + chaos_check.judge(work, evidence)
    did |= torment.did
    bad = [*chaos_faults.STORMS[plan.storm], *(BAD if plan.storm == "faults" else ())]
    wrong += [f"nothing was tested: {what!r} never happened" for what in bad if not did.get(what)]
    ran = sum(len(chaos_work.ends(one)) for one in work)
    found = {
        "tasks, steps of runs counted": ran,
        "runs": sum(not one.agent for one in work),
        "seconds": seconds,
        "tasks/s": ran / seconds,
        "worker processes": len(torment.workers),
        "submissions and waits that had to be made again": giving.refused,
        "submitted twice": giving.repeated,
        "results waited for": len(giving.waited),
        **chaos_check.figures(evidence),
    }
    return Outcome(plan, found, did, wrong)


def _proxy(plan: Plan, store: chaos_faults.Store, folder: Path) -> AbstractAsyncContextManager[processes.Producer]:
    options = (store.socket, f"{plan.seed}/proxy", TROUBLE_EVERY_SECONDS, plan.lease * 2)
    command = (sys.executable, "-m", "bench.chaos_proxy", *map(str, options))
    return processes.producer(Environment("proxy", command), {}, folder / "proxy.log")


async def _storm(
    plan: Plan, torment: chaos_faults.Torment, giving: Giving, clients: Sequence[Client], work: Sequence[Work]
) -> None:
    """Work comes in, and bad things happen, until all is submitted and each has happened."""
    waves = list(chaos_work.waves(work, plan.chance("waves")))
    pause = plan.seconds * len(clients) / len(waves)
    bad = asyncio.create_task(torment.run(FAULT_EVERY_SECONDS))
    given: asyncio.Future[Any] = asyncio.gather(
        *(
            giving.give(client, waves[n :: len(clients)], pause, plan.chance(f"client {n}"))
            for n, client in enumerate(clients)
        )
    )
    try:
        await asyncio.wait([bad, given], timeout=2 * plan.seconds + 60, return_when=asyncio.FIRST_COMPLETED)
        if bad.done():
            await bad
        if not given.done():
            raise Broken("the clients can't get rid of their work")
        await given
        while not bad.done() and not all(torment.did[fault] for fault in chaos_faults.STORMS[plan.storm]):
            await asyncio.sleep(0.1)
    finally:
        bad.cancel()
        given.cancel()
        await asyncio.gather(bad, given, return_exceptions=True)


async def _done(queue: Queue, torment: chaos_faults.Torment, giving: Giving) -> list[str]:
    """Waits until all is done, everybody has been told, and the dead are forgotten. Says what didn't come to that."""
    deadline = time.monotonic() + CALM_SECONDS
    while left := await _undone(queue, torment, giving):
        torment.check()
        if time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)
    return []


async def _undone(queue: Queue, torment: chaos_faults.Torment, giving: Giving) -> list[str]:
    now = await figures.figures(queue.client, queue.keys)
    leases = len(await queue.incarnations()) - len(torment.serving)
    counts = {"waiting": now.waiting, "running": now.running, "delayed": now.delayed, "parked": now.parked}
    counts |= {"waited for": len(giving.waiting), "leases too many": leases}
    return [f"{n} {what}" for what, n in counts.items() if n]


async def _evidence(
    direct: redis.asyncio.Redis, torment: chaos_faults.Torment, giving: Giving, work: Sequence[Work], ledger: Path
) -> chaos_check.Evidence:
    stored, runs, results = await chaos_check.read_store(direct, KEYS, work)
    return chaos_check.Evidence(
        ledger=chaos_check.read_ledger(ledger),
        stored=stored,
        runs=runs,
        results=results,
        waited=giving.waited,
        due=giving.due,
        left=await chaos_check.left_over(direct, KEYS),
        hits=torment.hits,
        logs={worker.pid: worker.log.read_text(errors="replace") for worker in torment.workers},
        fenced=await chaos_check.read_fenced(direct, KEYS),
        rolled_back=torment.rolled_back,
        clock_moved=torment.store.clock is not None,
    )


def _report(outcome: Outcome) -> None:
    plan = outcome.plan
    print(
        f"chaos, storm {plan.storm}, seed {plan.seed}: {plan.workers} workers, 10 at once each, lease {plan.lease} s; "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    )
    for what, value in (outcome.figures | outcome.did).items():
        print(f"{what:>50}: {value:,.1f}" if isinstance(value, float) else f"{what:>50}: {value:,}")
    for wrong in outcome.wrong[:SHOWN]:
        print(f"WRONG: {wrong}")
    if len(outcome.wrong) > SHOWN:
        print(f"... and {len(outcome.wrong) - SHOWN} more")
    print("BROKEN" if outcome.wrong else "0 lost, 0 doubled, every effect accounted for, nothing left")


def main() -> int:
    # Terminated is like interrupted: what was started is stopped. A shell may have SIGINT ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    arguments = _arguments()
    storms = [arguments.storm] if arguments.storm else list(chaos_faults.STORMS)
    if "clock" in storms and library() is None:
        print(f"the storm 'clock' is left out: {MISSING}", file=sys.stderr)
        storms.remove("clock")
    outcomes = []
    for storm in storms:
        part = 1 if storm == "faults" or arguments.storm else OTHERS_PART
        tasks, seconds = int(arguments.tasks * part), arguments.seconds * part
        plan = Plan(tasks, seconds, arguments.workers, arguments.lease, arguments.seed, storm)
        _say(f"storm {storm}, seed {plan.seed}: {plan.tasks} tasks, about {plan.seconds:.0f} s of chaos")
        parent = Path(arguments.keep) if arguments.keep else Path(tempfile.mkdtemp(prefix="wb-chaos-", dir="/tmp"))
        folder = parent / storm
        try:
            folder.mkdir(parents=True)
            outcomes.append(asyncio.run(run(plan, folder)))
        except FileExistsError:
            print(f"error: {str(folder)!r} is there already", file=sys.stderr)
            return 2
        except (WatchbillError, Broken) as error:
            print(f"BROKEN, storm {storm}, seed {plan.seed}: {error}")
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            if not arguments.keep:
                shutil.rmtree(parent, ignore_errors=True)
        _report(outcomes[-1])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([dataclasses.asdict(one) for one in outcomes], indent=1) + "\n")
    return 1 if any(one.wrong for one in outcomes) else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storm", choices=chaos_faults.STORMS, help="Only this one. Default: each in turn.")
    parser.add_argument("--tasks", type=int, help="Steps of runs counted. Default 10000.")
    parser.add_argument("--seconds", type=float, help="For so long work comes in, and bad things happen. Default 120.")
    parser.add_argument("--workers", type=int, default=4, help="Processes at any time.")
    parser.add_argument("--lease", type=int, default=3, help="In seconds.")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="Any text. Default: a new one.")
    parser.add_argument("--keep", metavar="FOLDER", help="Where logs, ledger and the store's data stay.")
    parser.add_argument("--short", action="store_true", help="1000 tasks, 12 seconds.")
    parser.add_argument("--json", metavar="FILE", help="Write seed, figures and what was wrong.")
    arguments = parser.parse_args()
    for name, (long, short) in {"tasks": (10_000, 1000), "seconds": (120.0, 12.0)}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, short if arguments.short else long)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
