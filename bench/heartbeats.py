"""Ten thousand heartbeats, a thousand of them due in the same second: how late each is fired, and that none is missed
or fired twice, by two live replicas.

    python -m bench.heartbeats [--beats 10000] [--due 1000] [--rounds 3] [--json FILE]
    python -m bench.heartbeats --kills [--due 400] [--period 60] [--rounds 15] [--json FILE]

A server, and two processes with a scheduler each, as two replicas of the operator have them. A round is one slot of
the due heartbeats; all others are due at other times of the day. Lateness is the time from the slot to the entry on
the queue, by the store's clock, which is this machine's. Measured alone before: the script that fires, for as many
slots at once, its calls ready to be sent. The goal is a p99 that is at most 250 ms beyond that.

With --kills all heartbeats are due each --period seconds, and two seconds before each slot (at second 58 of each
minute) one of the replicas, in turn, is killed (kill -9) and another one started. Each slot must be fired once all the
same.

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
from collections.abc import Sequence
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
TICK = schedule.TICK
GOAL_MS = 250.0  # p99 beyond that of the script alone


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
    beats = [beat(f"due{i}", intervalSeconds=PERIOD, suspend=True) for i in range(min(arguments.due, arguments.beats))]
    beats += [beat(f"b{i}", schedule=f"{i % 60} {far} * * *") for i in range(arguments.beats - arguments.due)]
    for start in range(0, len(beats), AT_ONCE):
        stored = (heartbeats.apply(client, CREW, uid, one, now=now) for one in beats[start : start + AT_ONCE])
        await asyncio.gather(*stored)
    return uid


async def alone(client: Any, uid: str, due: int) -> dict[str, float]:
    """The script by itself, for as many slots as are due: ms from the first call to each entry on the queue, and the
    server's µs for each call."""
    current = await definitions.current(client, CREW)
    slot = schedule.EPOCH + timedelta(days=365 * 60)
    following = slot + timedelta(seconds=PERIOD)
    calls = []
    for i in range(due):
        state = await heartbeats.apply(client, CREW, uid, beat(f"alone{i}", intervalSeconds=PERIOD), now=slot - TICK)
        calls.append(firing.prepare(CREW, state, current, slot=slot, following=following, now=slot))
    await firing.fire_all(client, calls[:1])  # the server knows the script from then on
    await client.config_resetstat()
    began = time.time() * 1000
    found = await firing.fire_all(client, calls[1:])
    assert all(isinstance(one, firing.Fired) and one.outcome == "fired" for one in found), found
    late = [ms - began for ms, _ in await entries(client)][1:]
    script = (await client.info("commandstats"))["cmdstat_evalsha"]
    for i in range(due):
        await heartbeats.remove(client, CREW, uid, f"alone{i}")
    await client.delete(*CREW.streams)
    return {**spread(late), "script_us": float(script["usec_per_call"])}


async def entries(client: Any) -> list[tuple[int, str]]:
    """Returns when each entry came onto the queue, in ms by the store's clock, and its id."""
    found = [entry for stream in CREW.streams for entry in await client.xrange(stream)]
    return [(int(at.partition("-")[0]), str(fields["id"])) for at, fields in found]


def spread(late: Sequence[float]) -> dict[str, float]:
    ordered = sorted(late) or [0.0]
    p99 = ordered[int(len(ordered) * 0.99)]
    return {"p50_ms": round(statistics.median(ordered), 1), "p99_ms": round(p99, 1), "max_ms": round(ordered[-1], 1)}


async def measure(client: Any, uid: str, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds with two live replicas: lateness of each slot in ms, and how many are doubled or missed."""
    first = schedule.next_slot(
        schedule.Schedule(interval_seconds=PERIOD), datetime.now(UTC) + timedelta(seconds=arguments.warm)
    )
    for i in range(arguments.due):
        await heartbeats.apply(client, CREW, uid, beat(f"due{i}", intervalSeconds=PERIOD), now=first - TICK)
    replicas = await asyncio.gather(started(url), started(url))
    try:
        if datetime.now(UTC) > first:
            sys.exit(f"the replicas were not ready within {arguments.warm} s: give more by --warm")
        last = first + timedelta(seconds=PERIOD * (arguments.rounds - 1))
        await asyncio.sleep((last - datetime.now(UTC)).total_seconds() + PERIOD - 2)
    finally:
        for process in replicas:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
    return await counted(client, first, last, PERIOD, arguments.due)


async def started(url: str) -> asyncio.subprocess.Process:
    """A replica that is ready, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.heartbeats", "--replica", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def kill_in_turn(client: Any, uid: str, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds in each of which one of two replicas is killed shortly before the slot, and another one is started."""
    period = arguments.period
    timing: dict[str, Any] = {"schedule": "* * * * *"} if period == 60 else {"intervalSeconds": period, "missed": "All"}
    lead = timedelta(seconds=min(2, period / 3))
    replicas: list[asyncio.subprocess.Process] = []
    try:
        for i in range(arguments.due):
            await heartbeats.apply(client, CREW, uid, beat(f"due{i}", **timing), now=datetime.now(UTC))
        replicas += await asyncio.gather(started(url), started(url))
        slot = datetime.now(UTC)
        slots = []
        for _ in range(arguments.rounds):
            slot = schedule.next_slot(schedule.Schedule(interval_seconds=period), max(slot, datetime.now(UTC) + lead))
            slots.append(slot)
            await asyncio.sleep((slot - lead - datetime.now(UTC)).total_seconds())
            doomed = replicas.pop(0)
            doomed.kill()
            await doomed.wait()
            replicas.append(await started(url))
        deadline = slot + timedelta(seconds=60)
        found = await counted(client, slots[0], slot, period, arguments.due)
        while found["missed"] and datetime.now(UTC) < deadline:
            await asyncio.sleep(0.2)
            found = await counted(client, slots[0], slot, period, arguments.due)
    finally:
        for process in replicas:
            process.kill()
            await process.wait()
    return found


async def counted(client: Any, first: datetime, last: datetime, period: int, due: int) -> dict[str, Any]:
    """Lateness of the slots from `first` to `last` in ms, and how many were fired twice or missed."""
    slots = range(int(first.timestamp()), int(last.timestamp()) + 1, period)
    came = [one for one in await entries(client) if int(one[1].rpartition("-")[2]) in slots]
    fired = Counter(name for _, name in came)
    return {
        "slots": len(fired),
        "doubled": len(came) - len(fired),
        "missed": len(slots) * due - len(fired),
        **spread([at - int(name.rpartition("-")[2]) * 1000 for at, name in came]),
    }


async def run(arguments: argparse.Namespace) -> int:
    if arguments.replica:
        await replica(arguments.replica)
        return 0
    async with server.private() as store, connection.connected(store.url) as client:
        load = os.getloadavg()[0]
        if arguments.kills:
            arguments.beats = 0
            found = await kill_in_turn(client, await populate(client, arguments), store.url, arguments)
        else:
            uid = await populate(client, arguments)
            script = await alone(client, uid, arguments.due)
            found = {"alone": script, **await measure(client, uid, store.url, arguments)}
    found = {"load": load, **found}
    print(json.dumps(found, indent=1))
    if not arguments.kills:
        beyond = found["p99_ms"] - script["p99_ms"]
        verdict = "met" if beyond < GOAL_MS else "not met"
        print(f"p99 beyond the script alone: {beyond:.1f} ms (goal: < {GOAL_MS:g} ms, {verdict})")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["doubled"] or found["missed"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.heartbeats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beats", type=int, default=10_000, help="Heartbeats in all. Default 10000.")
    parser.add_argument("--due", type=int, help="Heartbeats that are due at once. Default 1000, with --kills 400.")
    parser.add_argument("--rounds", type=int, help="Slots of each of these. Default 3, with --kills 15.")
    parser.add_argument("--kills", action="store_true", help="Kill a replica shortly before each slot.")
    parser.add_argument("--period", type=int, default=60, help="Seconds between slots, with --kills. Default 60.")
    parser.add_argument("--warm", type=int, default=60, help="Seconds for replicas to start. Default 60.")
    parser.add_argument("--json", metavar="FILE", help="Write what was measured.")
    parser.add_argument("--replica", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.due = arguments.due or (400 if arguments.kills else 1000)
    arguments.rounds = arguments.rounds or (15 if arguments.kills else 3)
    return asyncio.run(run(arguments))


if __name__ == "__main__":
    sys.exit(main())
