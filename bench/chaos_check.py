"""The verdict of bench.chaos: what the store, the ledger and the workers' logs say must agree. `judge` is pure.

What is asked: has every acknowledged task ended, as it had to; is each end on the results stream once; was what is
stored written under the last fence that a task was begun with; does the ledger explain every attempt; did nothing run
once its end was stored; is nothing left.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench.chaos_work import End, Work, ends, state

from watchbill.names import WORKERS_GROUP, CrewKeys
from watchbill.store import incarnations, packed

KEPT: Final = ("meta", "def:", "task:", "run:", "ids", "results", "events", "fenced", "tasks:", "bell")
"""The keys that a crew without work and workers may have in the store."""
READ_AT_ONCE: Final = 500
SAME_MOMENT_SECONDS: Final = 0.002
"""Server and ledger write the time with what they do, not at the very moment."""


@dataclass
class Beginning:
    """An attempt, as the agent itself noted it."""

    id: str
    attempt: int
    fence: int
    pid: int
    at: float
    """Monotonic."""
    wall: float
    ends: list[str] = field(default_factory=list)
    """returned | failed | refused | cancelled: one of them, or none where it saw no end."""

    @property
    def claimed(self) -> float:
        """Monotonic: a fence is the time of its claim in µs (docs/design/queue.md), if nobody set its clock."""
        return self.fence / 1e6 - (self.wall - self.at)


@dataclass(frozen=True)
class Stored:
    """The end of a task or step in the store."""

    state: str
    attempt: int
    fence: int
    finished: float
    """Wall clock, in s."""
    result: str


@dataclass
class Evidence:
    """All that is judged."""

    ledger: list[Beginning]
    stored: Mapping[str, Stored]
    runs: Mapping[str, str]
    """Run → its state."""
    results: Sequence[Mapping[str, str]]
    """The results stream."""
    waited: Mapping[str, bool]
    """Task or run that somebody waited for → whether it was told to be a success."""
    due: Mapping[str, float]
    """Delayed task → when it may begin."""
    left: list[str]
    """The keys that should be gone from the store."""
    hits: Mapping[int, Sequence[float]]
    """Process → when something was done to it."""
    logs: Mapping[int, str]
    fenced: Mapping[int, float]
    """Process → when the store first took it for dead, in s of the wall clock."""
    rolled_back: Sequence[float] = ()
    """The times at which the store had lost its last writes (monotonic)."""
    clock_moved: bool = False
    """The store's clock was set: its times can't be compared with others."""


def read_ledger(path: Path) -> list[Beginning]:
    """Beginnings in the order of fences, each with its ends."""
    found: dict[tuple[str, int], list[Beginning]] = {}
    for line in path.read_text().splitlines():
        what, id_, attempt, fence, pid, at, wall = line.split()
        begun = found.setdefault((id_, int(fence)), [])
        if what == "begun":
            begun.append(Beginning(id_, int(attempt), int(fence), int(pid), float(at), float(wall)))
        else:
            begun[-1].ends.append(what)
    return sorted((one for begun in found.values() for one in begun), key=lambda one: (one.id, one.fence))


async def read_store(
    client: Any, keys: CrewKeys, work: Iterable[Work]
) -> tuple[dict[str, Stored], dict[str, str], list[dict[str, str]]]:
    """Returns the ends of tasks and steps, those of runs, and the results stream."""
    stored: dict[str, Stored] = {}
    states: dict[str, str] = {}
    listed = list(work)
    for start in range(0, len(listed), READ_AT_ONCE):
        part = listed[start : start + READ_AT_ONCE]
        async with client.pipeline(transaction=False) as pipe:
            for one in part:
                if one.agent:
                    pipe.hmget(keys.task(one.id), ["state", "attempt", "fence", "finished", "result"])
                else:
                    pipe.hget(keys.run(one.id), "state")
                    pipe.hgetall(keys.run_steps(one.id))
                    pipe.hgetall(keys.run_results(one.id))
            replies = iter(await pipe.execute())
        for one in part:
            if one.agent:
                state, attempt, fence, finished, result = next(replies)
                if result:
                    stored[one.id] = Stored(state, int(attempt), int(fence), int(finished) / 1000, result)
                continue
            states[one.id] = str(next(replies))
            steps, results = next(replies), next(replies)
            for name, result in results.items():
                step = packed.Step.unpack(steps[name])
                stored[f"{one.id}/{name}"] = Stored(
                    step.state, step.attempt, int(step.fence), step.finished_ms / 1000, result
                )
    return stored, states, [fields for _, fields in await client.xrange(keys.results)]


async def read_fenced(client: Any, keys: CrewKeys) -> dict[int, float]:
    """Process → when the store first took it for dead."""
    fenced: dict[int, float] = {}
    for incarnation, at_ms in await client.zrange(keys.fenced, 0, -1, withscores=True):
        pid = int(incarnations.worker(incarnation).rpartition("-")[2])
        fenced[pid] = min(fenced.get(pid, math.inf), at_ms / 1000)
    return fenced


async def left_over(client: Any, keys: CrewKeys) -> list[str]:
    """Returns the keys in the store that a crew without work and workers shouldn't have."""
    left = []
    async for key in client.scan_iter(keys.prefix + "*", count=1000):
        name = key.removeprefix(keys.prefix)
        if not name.startswith(KEPT):
            left.append(f"the key {name} ({await client.type(key)})")
    for stream in keys.streams:
        pending = (await client.xpending(stream, WORKERS_GROUP))["pending"]
        consumers = [str(c["name"]) for c in await client.xinfo_consumers(stream, WORKERS_GROUP)]
        if (length := await client.xlen(stream)) or pending:
            left.append(f"{length} entries on {stream}, {pending} of them pending")
        if consumers:
            left.append(f"consumers of {stream}: {', '.join(consumers)}")
    if unfinished := await client.zrange(keys.ids, "+inf", "(1e13", byscore=True, desc=True, offset=0, num=10):
        left.append(f"ids that are unfinished: {unfinished}")
    told = [field for field in await client.hkeys(keys.meta) if field.startswith(("working:", "ref:"))]
    if told:
        left.append(f"in meta: {', '.join(told)}")
    if (tokens := await client.llen(keys.bell)) > 1:
        left.append(f"{tokens} tokens on the bell")
    return left


def judge(work: Sequence[Work], evidence: Evidence) -> list[str]:
    """Everything that is wrong, in words."""
    must = {id_: end for one in work for id_, end in ends(one).items()}
    begun: dict[str, list[Beginning]] = defaultdict(list)
    for beginning in evidence.ledger:
        begun[beginning.id].append(beginning)
    wrong = [*_ends(work, must, evidence), *_stream(work, must, evidence)]
    for id_ in must:
        if id_ in evidence.stored:
            wrong += _attempts(id_, begun.get(id_, []), evidence.stored[id_], evidence)
    wrong += _late(evidence)
    wrong += [f"{id_} ran, and was never to run" for id_ in begun.keys() - must.keys()]
    for one in work:
        steps = [begun[id_] for id_ in ends(one) if id_ in begun] if not one.agent else []
        for before, after in pairwise(steps):
            if not any("returned" in b.ends and b.fence < after[0].fence for b in before):
                wrong.append(f"{after[0].id} began before the step that it depends on had ended")
        if (
            not evidence.clock_moved
            and (
                early := evidence.due.get(one.id, 0.0)
                - min((b.wall for b in begun[one.id]), default=evidence.due.get(one.id, 0.0))
            )
            > 0
        ):
            wrong.append(f"{one.id} began {early:.3f} s early")
    return wrong + [f"left: {what}" for what in evidence.left]


def _ends(work: Sequence[Work], must: Mapping[str, End], evidence: Evidence) -> Iterator[str]:
    """Nothing is lost, and what is stored is right."""
    for id_, end in must.items():
        stored = evidence.stored.get(id_)
        if stored is None:
            yield f"{id_} is lost: it has not ended"
            continue
        result = json.loads(stored.result)
        if stored.state != end.state or result["success"] != (end.state == "completed"):
            yield f"{id_} is {stored.state}, and must be {end.state}: {result['error']}"
        elif end.state == "completed":
            output = result["output"]
            if output["value"] != end.value or result["task_id"] != id_:
                yield f"{id_} has the wrong result {stored.result[:200]}"
            if (output["fence"], output["attempt"]) != (stored.fence, stored.attempt):
                yield f"{id_} has the result of attempt {output['attempt']} under another fence than the stored one"
    for id_ in evidence.stored.keys() - must.keys():
        yield f"{id_} has a result, and must have none"
    for one in work:
        if not one.agent and evidence.runs.get(one.id) != state(one):
            yield f"{one.id} is {evidence.runs.get(one.id)}, and must be {state(one)}"
        if one.id in evidence.waited and evidence.waited[one.id] != (state(one) == "completed"):
            yield f"who waited for {one.id} was told that its success is {evidence.waited[one.id]}"


def _stream(work: Sequence[Work], must: Mapping[str, End], evidence: Evidence) -> Iterator[str]:
    """Every end is on the results stream, once."""
    states = {id_: end.state for id_, end in must.items()} | {one.id: state(one) for one in work if not one.agent}
    times = Counter(fields["id"] for fields in evidence.results)
    for id_ in states.keys() | times.keys():
        if times[id_] != (id_ in states):
            yield f"{id_} is {times[id_]} times on the results stream"
    for fields in evidence.results:
        id_ = fields["id"]
        if fields["state"] != states.get(id_):
            yield f"{id_} is {fields['state']} on the results stream"
        if fields.get("result") and fields["result"] != evidence.stored[id_].result:
            yield f"{id_} has another result on the results stream than in its record"


def _attempts(id_: str, begun: Sequence[Beginning], stored: Stored, evidence: Evidence) -> Iterator[str]:
    """Every attempt is explained, and the last one is the one that counts."""
    if not begun:
        yield f"{id_} has a result, and never ran"
        return
    last = begun[-1]
    if (last.fence, last.attempt) != (stored.fence, stored.attempt):
        yield (
            f"{id_} was last begun as attempt {last.attempt} under {last.fence}, "
            f"and stored as attempt {stored.attempt} under {stored.fence}"
        )
    elif last.ends != (["returned"] if stored.state == "completed" else ["refused"]):
        yield f"{id_} is {stored.state}, but its agent saw {last.ends or 'no end'}"
    for one, following in pairwise(begun):
        if one.fence == following.fence:
            yield f"{id_} was begun twice under the fence {one.fence}"
        elif following.attempt < one.attempt and not _forgotten(following, evidence):
            yield f"{id_}: attempt {following.attempt} came after attempt {one.attempt}"
        elif not _explained(one, following, evidence):
            yield (
                f"{id_}: attempt {one.attempt} in process {one.pid} ended as {one.ends or ['nothing']}, "
                f"and attempt {following.attempt} followed; nothing had happened to that process"
            )


def begun_late(evidence: Evidence) -> list[Beginning]:
    """Returns the attempts that began once their task's end was stored."""
    if evidence.clock_moved:
        return []
    ended = {id_: stored.finished + SAME_MOMENT_SECONDS for id_, stored in evidence.stored.items()}
    return [one for one in evidence.ledger if one.id in ended and one.wall > ended[one.id]]


def _late(evidence: Evidence) -> Iterator[str]:
    """Nothing runs once its end was stored. But who was stopped may have stood before an agent's very first step; and a
    store that was rolled back may have given others what it had forgotten that a worker holds."""
    by_process: dict[int, list[Beginning]] = defaultdict(list)
    for one in begun_late(evidence):
        if not any(one.claimed <= at <= one.at for at in evidence.rolled_back):
            by_process[one.pid].append(one)
    for pid, late in by_process.items():
        hits = evidence.hits.get(pid, ())
        if len(late) > len(hits):
            ids = ", ".join(one.id for one in late)
            times = "; ".join(
                f"{one.id} was claimed at {one.claimed:.3f}, begun at {one.at:.3f}, "
                f"and ended at {evidence.stored[one.id].finished - one.wall + one.at:.3f}"
                for one in late
            )
            yield (
                f"process {pid} began {ids} when their ends had been stored: {times}; "
                f"it was hit at {[round(at, 3) for at in hits]}, "
                f"the store rolled back at {[round(at, 3) for at in evidence.rolled_back]}"
            )


def _explained(one: Beginning, following: Beginning, evidence: Evidence) -> bool:
    """It failed and is tried again, or its process was hit before the next beginning, or taken for dead."""
    if one.ends == ["failed"] and following.attempt > one.attempt:
        return True
    hit = any(at <= following.at for at in evidence.hits.get(one.pid, ()))
    known_dead = evidence.fenced.get(one.pid, math.inf)
    fenced = known_dead <= (math.inf if evidence.clock_moved else following.wall + SAME_MOMENT_SECONDS)
    return hit or (one.pid in evidence.fenced and fenced) or _forgotten(following, evidence)


def _forgotten(following: Beginning, evidence: Evidence) -> bool:
    """Before this, the store may have lost what came of the attempt before."""
    return any(at <= following.at for at in evidence.rolled_back)


def figures(evidence: Evidence) -> dict[str, int]:
    """Counts for people."""
    logs = "\n".join(evidence.logs.values())
    by_id: dict[str, list[Beginning]] = defaultdict(list)
    for one in evidence.ledger:
        by_id[one.id].append(one)
    again = [pair for begun in by_id.values() for pair in pairwise(begun)]
    recorded = sum(stored.attempt for stored in evidence.stored.values())
    return {
        "attempts begun": len(evidence.ledger),
        "attempts recorded": recorded,
        "failed and tried again": sum(one.ends == ["failed"] and b.attempt > one.attempt for one, b in again),
        "handed back, or lost before they were counted": sum(one.attempt == b.attempt for one, b in again),
        "counted, and never begun": sum(begun[0].attempt - 1 for begun in by_id.values())
        + sum(max(b.attempt - one.attempt - 1, 0) for one, b in again),
        "begun by one who woke on the first step": len(begun_late(evidence)),
        "taken over": sum(int(n) for n in re.findall(r"took over (\d+) tasks", logs)),
        "workers taken for dead that lived": logs.count("silent for longer than its lease"),
        "ends refused as stale": logs.count("is no longer ours: nothing was stored"),
    }


async def settled(client: Any, keys: CrewKeys, seconds: float) -> list[str]:
    """Returns the keys that are left once nothing changes any more, or when the time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (left := await left_over(client, keys)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.2)
    return left
