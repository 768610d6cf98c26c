"""Rubbish on the task streams: a thousand entries that nobody submitted, among a thousand tasks that somebody did."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import redis.asyncio
from workshop import Make, agent

from waiting import until
from watchbill.records import ExecutionMode, FlowRelation
from watchbill.tasks import AgentTask, Priority, TaskResult

Fields = dict[bytes, bytes]

GOOD, BAD, HELD = 1000, 1000, 5
READABLE = {b"agent": b"a", b"payload": b'{"task_id": "x", "agent_name": "a", "prompt": "do it"}'}


def held(n: int) -> bytes:
    return b"held-%d" % (n % HELD)


# What `discard` refuses at the claim: it keeps its first 64 KiB.
UNREADABLE: dict[str, Callable[[int], Fields]] = {
    "no field that we know": lambda n: {b"foo": b"%d" % n, b"": b""},
    "no id": lambda n: {b"agent": b"a", b"n": b"%d" % n},
    "no agent": lambda n: {b"id": b"no-agent-%d" % n},
    "an empty id": lambda n: {b"id": b"", b"agent": b"a"},
    "an empty agent": lambda n: {b"id": b"empty-%d" % n, b"agent": b""},
    "bytes that are no text": lambda n: {b"\xff\xfe%d" % n: bytes(range(256))},
    "an id that is no text": lambda n: {b"id": b"\xff%d\xc3(" % n, b"agent": b"a"},
    "an agent that is no text": lambda n: {b"id": b"no-text-%d" % n, b"agent": b"a\xed\xa0\x80"},
    "an id with control characters": lambda n: {b"id": b"%d\n\x00\x7f" % n, b"agent": b"a"},
    "an id with our separators": lambda n: {b"id": b"%d\x1f\x1e\x1d" % n, b"agent": b"a"},
    "a huge id": lambda n: {b"id": b"x" * 100_000, b"agent": b"a"},
    "a huge field": lambda n: {b"n": b"%d" % n, b"junk": b"\x80" * 200_000},
    "many fields": lambda n: {b"f%d" % f: b"%d" % n for f in range(500)},
    "an attempt that is no number": lambda n: {b"id": b"inf-%d" % n, b"attempt": b"inf", **READABLE},
    "an attempt of zero": lambda n: {b"id": b"zero-%d" % n, b"attempt": b"0", **READABLE},
    "an attempt below zero": lambda n: {b"id": b"minus-%d" % n, b"attempt": b"-1", **READABLE},
    "an attempt beyond all numbers": lambda n: {b"id": b"nines-%d" % n, b"attempt": b"9" * 400, **READABLE},
    "a second entry of what is held": lambda n: {b"id": held(n), **READABLE},
    "a second entry, without payload": lambda n: {b"id": held(n), b"agent": b"a"},
    "an id that is no step": lambda n: {b"id": b"/%d" % n, b"agent": b"a"},
    "an id of slashes, with a payload": lambda n: {b"id": b"//%d" % n, **READABLE},
}
# What can be read, and leads nowhere.
NOWHERE: dict[str, Callable[[int], Fields]] = {
    "no record": lambda n: {b"id": b"ghost-%d" % n, b"agent": b"a"},
    "no record, but a payload": lambda n: {b"id": b"forged-%d" % n, **READABLE},
    "a payload that is no task": lambda n: {b"id": b"mad-%d" % n, b"agent": b"a", b"payload": b"[1, 2"},
    "a payload that is no text": lambda n: {b"id": b"raw-%d" % n, b"agent": b"a", b"payload": b"\xff\x00\xfe"},
    "an agent of another crew": lambda n: {b"id": b"lost-%d" % n, b"agent": b"nobody", b"payload": b"{}"},
    "an agent of another crew, no payload": lambda n: {b"id": b"lost-too-%d" % n, b"agent": "näher".encode()},
    "another definition": lambda n: {b"id": b"def-%d" % n, b"def": b"\xff\xff", **READABLE},
    "inputs of nobody": lambda n: {b"id": b"inputs-%d" % n, b"inputs": b"x \xff ,,", **READABLE},
    "an attempt too many": lambda n: {b"id": b"late-%d" % n, b"attempt": b"99", **READABLE},
    "a step of no run": lambda n: {b"id": b"no-run-%d/a" % n, b"agent": b"a"},
    "a step of no run, with a payload": lambda n: {b"id": b"no-run-too-%d/a" % n, **READABLE},
    "a step of a step": lambda n: {b"id": b"no-run-%d/a/b/c" % n, b"agent": b"a"},
    "an id without its step": lambda n: {b"id": b"no-run-%d/" % n, **READABLE},
    "another step of a run": lambda n: {b"id": b"run/other-%d" % n, **READABLE},
}


def bad(chance: random.Random) -> Iterator[tuple[str, Fields]]:
    """Of each kind as many."""
    kinds = [*UNREADABLE, *NOWHERE]
    for n in range(BAD):
        kind = kinds[n % len(kinds)]
        fields = (UNREADABLE | NOWHERE)[kind](n)
        if chance.random() < 0.2:
            fields[b"more"] = chance.randbytes(chance.choice([1, 100, 5000]))
        yield kind, fields


async def test_a_thousand_malformed_entries_hold_up_none_of_a_thousand_tasks(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Brief"), agent("gate", "Gate")], concurrency=20, tasks={"max_attempts": 5})
    worker = await crew.worker()
    waiting = [f"held-{n}" for n in range(HELD)]
    for task in waiting:
        await crew.submit(task, "gate")
    await crew.submit("run")
    await crew.started(*waiting, "run/gate")
    chance = random.Random("rubbish")
    rubbish = bad(chance)
    written: dict[tuple[bytes, bytes], tuple[str, Fields]] = {}  # by class and entry
    raw: Any
    async with redis.asyncio.Redis.from_url(crew.url) as raw:

        async def all_buried() -> bool:
            return await raw.xlen(crew.keys.dead) >= BAD

        for first in range(0, GOOD, 20):
            tasks = [AgentTask(task_id=f"t{n}", agent_name="a", prompt=f"{n}!") for n in range(first, first + 20)]
            tasks = [task.model_copy(update={"priority": chance.choice(list(Priority))}) for task in tasks]
            await crew.client.submit_many(crew.name, "a", tasks)
            for kind, fields in itertools.islice(rubbish, 20 * BAD // GOOD):
                stream = chance.choice(crew.keys.streams)
                written[stream[-1:].encode(), await raw.xadd(stream, fields)] = kind, fields
        results = await crew.results([f"t{n}" for n in range(GOOD)], timeout=180)
        await until(all_buried, what="the last dead letter")
        letters = {(f[b"class"], f[b"entry"]): f for _, f in await raw.xrange(crew.keys.dead)}
        assert await raw.xlen(crew.keys.dead) == len(letters)
    assert worker.lives, worker.log
    assert [isinstance(r, TaskResult) and r.output for r in results] == [f"{n}!" for n in range(GOOD)]
    executions = crew.executions()
    assert {executions[f"t{n}"] for n in range(GOOD)} == {1}
    assert {kind for where, (kind, _) in written.items() if where not in letters} == set()
    assert len(letters) == BAD
    for where, letter in letters.items():
        kind, fields = written[where]
        if kind in UNREADABLE:
            kept = {name[4:]: value for name, value in letter.items() if name.startswith(b"raw:")}
            assert all(fields[name].startswith(value) for name, value in kept.items()), kind
            size, of_kept = (sum(len(name) + len(value) for name, value in some.items()) for some in (fields, kept))
            assert min(size, 65_536) - 3 <= of_kept <= 65_536, kind  # it has no half of a character
            assert int(letter.get(b"raw_bytes", of_kept)) == size, kind
        else:
            assert (letter[b"id"], letter[b"agent"]) == (fields[b"id"], fields[b"agent"]), kind
        assert letter[b"reason"], kind

    figures = await crew.client.figures(crew.name)
    assert (figures.waiting, figures.running, figures.dead) == (0, HELD + 1, BAD)
    crew.open()
    assert all(result.success for result in await crew.results([*waiting, "run"]))
    assert await crew.is_idle()
    assert await crew.redis.hgetall(crew.keys.agents) == {}
    assert await crew.redis.zcard(crew.keys.delayed) == 0
    pending = [await crew.redis.xpending(stream, "workers") for stream in crew.keys.streams]
    assert [one["pending"] for one in pending] == [0] * 5
    assert await crew.client.unfinished(crew.name) == []
    await crew.submit("last", "a", "at last")
    assert (await crew.result("last")).output == "at last"
    await worker.drain()


async def test_a_step_that_reads_what_nobody_can_read_fails_and_says_so(make_crew: Make) -> None:
    relations = [FlowRelation(source="a", target="b"), FlowRelation(source="c", target="b")]
    crew = await make_crew(dict.fromkeys("abc", "Gate"), mode=ExecutionMode.FLOW, flow_relations=relations)
    async with crew.in_process():
        await crew.submit("r1")
        await crew.started("r1/c")
        crew.open("r1/a", "r1/b")
        await crew.result("r1/a")
        await crew.redis.hset(crew.keys.run_results("r1"), "a", '{"task_id":"r1/a","output":' + "7" * 5000 + "}")
        crew.open("r1/c")
        run: Any = await crew.result("r1")
    assert not run.success
    assert "step 'a' of run 'r1' has no output that can be read" in run.steps["b"].error
    assert crew.executions()["r1/b"] == 0
