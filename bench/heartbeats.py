"""Ten thousand heartbeats, a thousand of them due in the same second: how late each is fired, and that none is missed
or fired twice, by two live replicas.

    python -m bench.heartbeats [--beats 10000] [--due 1000] [--rounds 3] [--json FILE]

A server, and two processes with a scheduler each, as two replicas of the operator have them. A round is one slot of
the due heartbeats; all others are due at other times of the day. Lateness is the time from the slot to the entry on
the queue, by the store's clock, which is this machine's. Measured alone before: the script that fires, for as many
slots, one call at a time and as many at once as a replica makes.

Exits with 1 when a slot was fired twice or missed. A slow machine is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import server

from watchbill import connection
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.scheduler import Scheduler
from watchbill.store import definitions, firing, heartbeats

CREW = CrewKeys("bench", "beats")
PERIOD = 15
"""Seconds from one slot of the due heartbeats to the next."""
AT_ONCE = 100


def beat(name: str, **spec: Any) -> Heartbeat:
    made = HeartbeatSpec(crewRef=CrewRef(name="beats"), agent="a", prompt="look", **spec)
    return Heartbeat(metadata=ObjectMeta(name=name), spec=made)


async def replica(url: str) -> None:
    """One scheduler, as the operator runs it, until its stdin is closed."""
    async with connection.connected(url) as client:
        scheduler = Scheduler(client)
        for state in await heartbeats.all_of(client, CREW):
            await scheduler.follow(CREW, state)
        await scheduler.start()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await scheduler.stop()


async def populate(client: Any, arguments: argparse.Namespace) -> str:
    """The crew, and its heartbeats. Returns the crew's uid."""
    crew = CrewDefinition(
        crew_id="beats",
        name="beats",
        agents=[AgentDefinition(agent_id="a")],
        tasks=TaskPolicy(max_queued=10_000_000),
    )
    uid = await definitions.apply(client, CREW, crew)
    now = datetime.now(UTC)
    far = (now + timedelta(hours=12)).hour
    beats = [beat(f"due{i}", intervalSeconds=PERIOD, suspend=True) for i in range(arguments.due)]
    beats += [beat(f"b{i}", schedule=f"{i % 60} {far} * * *") for i in range(arguments.beats - arguments.due)]
    for start in range(0, len(beats), AT_ONCE):
        stored = (heartbeats.apply(client, CREW, uid, one, now=now) for one in beats[start : start + AT_ONCE])
        await asyncio.gather(*stored)
    return uid


async def alone(client: Any, uid: str, due: int) -> dict[str, float]:
    """The script by itself, for as many slots as are due: ms until the last is fired, by calls at once."""
    current = await definitions.current(client, CREW)
    slot = schedule.EPOCH + timedelta(days=365 * 60)
    found = {}
    for at_once in (1, AT_ONCE):
        slot += timedelta(seconds=PERIOD)
        states = [
            await heartbeats.apply(client, CREW, uid, beat(f"alone{i}", intervalSeconds=PERIOD), now=slot)
            for i in range(due)
        ]
        gate = asyncio.Semaphore(at_once)

        async def fire(state: heartbeats.HeartbeatState, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                at = state.next or schedule.EPOCH
                await firing.fire(
                    client, CREW, state, current, slot=at, following=at + timedelta(seconds=PERIOD), now=at
                )

        await client.config_resetstat()
        began = time.perf_counter()
        await asyncio.gather(*(fire(state) for state in states))
        found[f"{at_once}_at_once_ms"] = round((time.perf_counter() - began) * 1000, 1)
        calls = (await client.info("commandstats")).get("cmdstat_evalsha", {})
        found[f"{at_once}_at_once_script_us"] = float(calls.get("usec_per_call", 0))
        for i in range(due):
            await heartbeats.remove(client, CREW, uid, f"alone{i}")
    await client.delete(*CREW.streams)
    return found


async def measure(client: Any, uid: str, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds with two live replicas: lateness of each slot in ms, and how many are doubled or missed."""
    first = schedule.next_slot(
        schedule.Schedule(interval_seconds=PERIOD), datetime.now(UTC) + timedelta(seconds=arguments.warm)
    )
    for i in range(arguments.due):
        await heartbeats.apply(client, CREW, uid, beat(f"due{i}", intervalSeconds=PERIOD), now=first - schedule.TICK)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.heartbeats", "--replica", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        if datetime.now(UTC) > first:
            sys.exit(f"the replicas were not ready within {arguments.warm} s: give more by --warm")
        last = first + timedelta(seconds=PERIOD * (arguments.rounds - 1))
        await asyncio.sleep((last - datetime.now(UTC)).total_seconds() + PERIOD - 2)
    finally:
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
    entries = [entry for stream in CREW.streams for entry in await client.xrange(stream)]
    fired = Counter(str(fields["id"]) for _, fields in entries)
    late = [int(e.partition("-")[0]) - int(f["id"].rpartition("-")[2]) * 1000 for e, f in entries]
    slots = {name.rpartition("-")[2] for name in fired}
    missed = sum(state.missed for state in await heartbeats.all_of(client, CREW))
    ordered = sorted(late)
    return {
        "slots": len(fired),
        "rounds": len(slots),
        "doubled": sum(count - 1 for count in fired.values()),
        "missed": missed + len(slots) * arguments.due - len(fired),
        "median_ms": statistics.median(ordered),
        "p99_ms": ordered[int(len(ordered) * 0.99)],
        "max_ms": ordered[-1],
    }


async def run(arguments: argparse.Namespace) -> int:
    if arguments.replica:
        await replica(arguments.replica)
        return 0
    async with server.private() as store:
        uid = await populate(store.client, arguments)
        found = {"load": os.getloadavg()[0], "alone": await alone(store.client, uid, arguments.due)}
        found |= await measure(store.client, uid, store.url, arguments)
    print(json.dumps(found, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["doubled"] or found["missed"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.heartbeats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beats", type=int, default=10_000, help="Heartbeats in all. Default 10000.")
    parser.add_argument("--due", type=int, default=1000, help="Heartbeats that are due at once. Default 1000.")
    parser.add_argument("--rounds", type=int, default=3, help="Slots of each of these. Default 3.")
    parser.add_argument("--warm", type=int, default=60, help="Seconds for replicas to start. Default 60.")
    parser.add_argument("--json", metavar="FILE", help="Write what was measured.")
    parser.add_argument("--replica", metavar="URL", help=argparse.SUPPRESS)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
