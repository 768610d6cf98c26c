"""The findings of a comparison, as a table for people and as JSON. Judges nothing but the goals, and fails for none."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from bench.compare import AOF, WITH_AOF, Found, Measured
from bench.environments import OTHERS, OURS

SPEED: Final = {"tasks/s": 0, "tasks/s from connect": 0, "p50 ms": 2, "p99 ms": 2, "submit/s": 0, "bulk/s": 0}
COST: Final = {"commands/task": 1, "bytes in/task": 0, "bytes out/task": 0, "server us/task": 0, "start s": 2}
FIGURES: Final = {**SPEED, **COST}
"""By name, with how many decimals."""
SPREAD: Final = ("tasks/s", "p50 ms", "submit/s", "bulk/s")
"""Shown with lowest and highest. The others' are in the JSON."""


def as_json(found: Found) -> dict[str, Any]:
    """All of it: each round, medians with lowest and highest, and the goals."""
    peers = {
        name: {**dataclasses.asdict(peer), "medians": {what: _spread(peer, what) for what in FIGURES if peer.rounds}}
        for name, peer in found.peers.items()
    }
    goals = [{"goal": goal, "reached": reached, "is": text} for goal, reached, text in _goals(found)]
    return {"machine": found.machine, "plan": dataclasses.asdict(found.plan), "peers": peers, "goals": goals}


def lines(found: Found, *, goals: bool) -> Iterator[str]:
    """The tables, what each peer was set to and promises, the noise, the goals if asked for, and what is broken."""
    plan, machine = found.plan, found.machine
    repetitions = max((len(peer.rounds) for peer in found.peers.values()), default=0)
    yield (
        f"{machine['server']}, Python {machine['python']}, {machine['system']}, {machine['cores']} cores; one worker, "
        f"{plan.concurrency} at once; {plan.tasks} tasks, {plan.probes} latencies, {repetitions} rounds: "
        "median (lowest … highest)"
    )
    yield ""
    yield from _table(found, SPEED)
    yield ""
    yield from _table(found, COST)
    yield ""
    yield "tasks/s: from the first task's run until nothing waits, runs or is unacknowledged; all enqueued before."
    yield "commands (those inside scripts too), bytes and server time: submission and drain together."
    yield ""
    for name, peer in found.peers.items():
        if peer.rounds and not name.endswith(AOF):
            yield f"{name} {peer.about['version']}"
            yield f"    {peer.about['settings']}"
            yield f"    delivers {peer.about['guarantee']}"
        elif peer.skipped:
            yield f"{name}: left out. {peer.skipped}"
    yield ""
    yield from _noise(found)
    yield ""
    for goal, reached, text in _goals(found) if goals else ():
        yield f"{'reached' if reached else 'MISSED ':<8} {goal}: {text}"
    for name, error in found.broken.items():
        yield f"BROKEN   {name}: {error}"


def _table(found: Found, figures: Iterable[str]) -> Iterator[str]:
    rows = [["", *figures]]
    rows += [[name, *(_cell(peer, what) for what in rows[0][1:])] for name, peer in found.peers.items() if peer.rounds]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])


def _median(peer: Measured, what: str) -> float:
    return statistics.median(figures[what] for figures in peer.rounds)


def _spread(peer: Measured, what: str) -> dict[str, float]:
    values = [figures[what] for figures in peer.rounds]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _cell(peer: Measured, what: str) -> str:
    spread, decimals = _spread(peer, what), FIGURES[what]
    text = f"{spread['median']:,.{decimals}f}"
    if what not in SPREAD or len(peer.rounds) == 1:
        return text
    return f"{text} ({spread['lowest']:,.{decimals}f} … {spread['highest']:,.{decimals}f})"


def _noise(found: Found) -> Iterator[str]:
    loads = [figures["load"] for peer in found.peers.values() for figures in peer.rounds]
    if loads:
        yield f"noise: load average before a round {min(loads):.1f} … {max(loads):.1f}, its own included"
    floor = found.peers.get("floor")
    if floor and len(floor.rounds) > 1:
        said = []
        for what in ("tasks/s", "p50 ms"):
            spread = _spread(floor, what)
            said.append(f"{what} {(spread['highest'] - spread['lowest']) / spread['median']:.0%}")
        yield f"noise: the floor's own spread, (highest - lowest) / median: {', '.join(said)}"


def _goals(found: Found) -> Iterator[tuple[str, bool, str]]:
    """(goal, reached, what is), for each goal of which both sides were measured."""
    measured = {name: peer for name, peer in found.peers.items() if peer.rounds}
    ours, floor = measured.get("watchbill"), measured.get("floor")
    if not ours:
        return
    peers = {name: peer for name, peer in measured.items() if name not in OURS and not name.endswith(AOF)}
    python = {name: peer for name, peer in peers.items() if name not in OTHERS}

    def best(among: dict[str, Measured], what: str, choose: Callable[..., str] = max) -> tuple[str, float]:
        name = choose(among, key=lambda n: _median(among[n], what))
        return name, _median(among[name], what)

    def against(goal: str, what: str, times: float, than: tuple[str, float]) -> tuple[str, bool, str]:
        mine = _median(ours, what)
        return goal, mine >= times * than[1], f"{mine:,.0f} is {mine / than[1]:.2f} of {than[0]}'s {than[1]:,.0f}"

    if python:
        yield against("P1 drain ≥ 5 x the fastest Python peer", "tasks/s", 5, best(python, "tasks/s"))
        yield against("P3 one by one ≥ the fastest Python peer", "submit/s", 1, best(python, "submit/s"))
    for name in OTHERS:
        if name in peers:
            yield against(f"P1 drain > {name}", "tasks/s", 1, (name, _median(peers[name], "tasks/s")))
    if "bullmq" in peers:
        yield against("P3 bulk > BullMQ", "bulk/s", 1, ("bullmq", _median(peers["bullmq"], "bulk/s")))
    if floor:
        yield _paired("P1 drain ≥ 50% of the floor", "tasks/s", ours, floor, at_least=0.5)
        if wide := measured.get("floor-100"):
            yield _paired("(P1 drain ≥ 50% of the floor that holds 100)", "tasks/s", ours, wide, at_least=0.5)
        yield _paired("P2 p50 ≤ 1.5 x the floor's", "p50 ms", ours, floor, at_most=1.5)
        yield _paired("P3 bulk ≥ 50% of the floor", "bulk/s", ours, floor, at_least=0.5)
    if peers:
        name, p50 = best(peers, "p50 ms", min)
        p99 = _median(ours, "p99 ms")
        yield "P2 p99 ≤ the best peer's p50", p99 <= p50, f"{p99:.2f} ms, and {name} has a p50 of {p50:.2f}"
    for name in WITH_AOF:
        if name in measured and name + AOF in measured:
            goal = "P1d drain with AOF ≥ 60% of P1"
            least = 0.6 if name == "watchbill" else 0.0
            label = goal if least else "(the floor's own drain with AOF)"
            yield _paired(label, "tasks/s", measured[name + AOF], measured[name], at_least=least)


def _paired(
    goal: str, what: str, mine: Measured, theirs: Measured, *, at_least: float = 0.0, at_most: float = float("inf")
) -> tuple[str, bool, str]:
    """By the ratio within each round, which a change of the machine's mood between rounds leaves alone."""
    ratios: Sequence[float] = [a[what] / b[what] for a, b in zip(mine.rounds, theirs.rounds, strict=False)]
    ratio = statistics.median(ratios)
    return goal, at_least <= ratio <= at_most, f"ratio {ratio:.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
