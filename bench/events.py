"""EventStream.emit to three streams (town, agent, mission), beside one XADD after the other as in the original.

    python -m bench.events [--events 2000] [--rounds 5] [--json FILE]

One client on a loopback TCP connection emits one event after the other; rounds of the two alternate. `commands` are
those that the client sends for one event.

Exits with 1 when a stream doesn't have what was emitted.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from bench import ours, server
from bench.ours import Figures

from watchbill import connection
from watchbill.events import AGENT_STREAM_MAX, CREW_STREAM_MAX, RUN_STREAM_MAX, EventStream, TownEvent

Emit = Callable[[TownEvent], Awaitable[object]]


def event(number: int) -> TownEvent:
    made = TownEvent.new("task_completed", f"event {number}")
    return made.with_agent("researcher").with_task(f"t{number}").with_mission("m1")


async def measure(
    store: server.Server, events: int, rounds: int
) -> tuple[dict[str, list[dict[str, float]]], list[str]]:
    """By way of emitting: each round's figures; and what is wrong."""
    found: Figures = {"emit": [], "three XADDs": []}
    wrong: list[str] = []
    async with connection.connected(store.url) as client:
        stream = EventStream(client, "ours")

        async def one_by_one(told: TownEvent) -> None:
            fields = ("event_type", told.event_type.value, "data", told.model_dump_json(exclude_none=True))
            keys = ("tt:theirs:events", f"tt:theirs:events:agent:{told.agent_id}", "tt:theirs:events:mission:m1")
            for key, most in zip(keys, (CREW_STREAM_MAX, AGENT_STREAM_MAX, RUN_STREAM_MAX), strict=True):
                await client.execute_command("XADD", key, "MAXLEN", "~", most, "*", *fields)

        ways: dict[str, Emit] = {"emit": stream.emit, "three XADDs": one_by_one}
        for _ in range(rounds):
            for name, emit in ways.items():
                await emit(event(0))
                found[name].append(await _round(store, emit, events))
        for read in (
            await stream.read_recent_town_events(1),
            (await stream.read_agent_events("researcher", count=1000))[-1:],
            (await stream.read_mission_events("m1", count=1000))[-1:],
        ):
            wrong += [f"{told.message!r} is the newest" for _, told in read if told.message != f"event {events - 1}"]
            wrong += [] if read else ["a stream is empty"]
    return found, wrong


async def _round(store: server.Server, emit: Emit, events: int) -> dict[str, float]:
    made = [event(number) for number in range(events)]
    await store.reset()
    times = []
    for told in made:
        begun = time.perf_counter()
        await emit(told)
        times.append((time.perf_counter() - begun) * 1e3)
    cost = await store.cost()
    asked = await store.client.info("commandstats")
    sent = sum(int(of["calls"]) for name, of in asked.items() if name == "cmdstat_evalsha") or 3 * events
    return {
        "p50 ms": statistics.median(times),
        "p99 ms": sorted(times)[int(len(times) * 0.99)],
        "events/s": events / (sum(times) / 1e3),
        "commands": sent / events,
        "server us": cost.cpu_seconds / events * 1e6,
    }


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    found, wrong = ours.on_own_store(lambda store: measure(store, arguments.events, arguments.rounds))
    return ours.report(
        f"{arguments.events} events, {arguments.rounds} rounds, load average {load:.1f}", found, wrong, arguments.json
    )


if __name__ == "__main__":
    sys.exit(main())
