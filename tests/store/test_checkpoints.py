"""Results of steps within a task: who may store them, who finds them, and how long they are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from queue_calls import expired
from support import Crew, flow_of

from watchbill.errors import CrewGone, Fenced
from watchbill.store import checkpoints, control, dead, definitions
from watchbill.store.packed import Checkpoint
from watchbill.store.queue import Claimed


async def keep(crew: Crew, worker: str, task: Claimed, number: int, value: str = '"x"') -> None:
    await checkpoints.store(crew.queue, worker, task, number, f"s{number}#1", value)


async def kept(crew: Crew, worker: str, task: Claimed) -> dict[int, str]:
    return {number: one.value for number, one in (await checkpoints.stored(crew.queue, worker, task)).items()}


async def test_the_next_attempt_finds_what_the_last_has_stored_and_only_the_holder_adds_to_it(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    old = await crew.take("zombie")
    assert await kept(crew, "zombie", old[0]) == {}
    await keep(crew, "zombie", old[0], 2, "[2]")
    await keep(crew, "zombie", old[0], 1, '"é"')  # of two at once, the first may come last
    await keep(crew, "zombie", old[0], 1, '"é"')  # sent again
    await crew.queue.declare_dead(["zombie"])
    (new, other) = await crew.take("heir")
    with pytest.raises(Fenced, match="was taken for dead"):
        await keep(crew, "zombie", old[0], 3)
    with pytest.raises(Fenced, match="no longer this attempt's"):
        await keep(crew, "heir", replace(new, fence=old[0].fence), 3)
    assert await kept(crew, "heir", new) == {1: '"é"', 2: "[2]"}
    assert await kept(crew, "heir", other) == {}
    assert (await checkpoints.stored(crew.queue, "heir", new))[1] == Checkpoint("s1#1", 4, '"é"')
    await crew.finish("heir", [new])
    before = await crew.dump()
    for call in (keep(crew, "heir", new, 3), kept(crew, "heir", new)):
        with pytest.raises(Fenced, match="no longer this attempt's"):
            await call
    assert await crew.dump() == before


async def test_large_values_are_beside_the_others_and_many_are_read_in_pages(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    large = '"' + "é" * 40_000 + '"'
    await keep(crew, "w", task, 1, large)
    for number in range(2, 42):
        await keep(crew, "w", task, number, f'"{number}{"x" * 60_000}"')  # together more than one answer takes
    for number in range(42, 600):
        await keep(crew, "w", task, number)
    found = await checkpoints.stored(crew.queue, "w", task)
    assert (found[1].size, found[1].value) == (80_002, "")
    assert await checkpoints.value(crew.queue, task, 1) == large
    assert sorted(found) == list(range(1, 600))
    assert {found[number].value[:4] for number in (2, 41)} == {'"2xx', '"41x'}


async def test_each_step_of_a_run_has_its_own_and_they_go_with_the_run(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "c"), ("b", "c")]))
    first, second = await crew.take("w")
    await keep(crew, "w", first, 1, "1")
    await keep(crew, "w", second, 1, "2")
    assert (await kept(crew, "w", first), await kept(crew, "w", second)) == ({1: "1"}, {1: "2"})
    await crew.finish("w", [first], "retry", ttl_ms=-1)
    (again,) = await crew.take("w", 2)
    assert await kept(crew, "w", again) == {1: "1"}
    await crew.finish("w", [again, second], ttl_ms=1)
    await crew.finish("w", await crew.take("w", 3), ttl_ms=1)
    await expired(crew, crew.keys.run("r1"))
    assert not [key for key in await crew.client.keys(crew.keys.prefix + "run:*") if "events" not in key]


async def test_they_are_there_after_a_pause_and_a_replay_and_gone_with_the_record(crew: Crew) -> None:
    await crew.submit("t1", inputs={"log": "lines"})
    (task,) = await crew.take("w")
    await keep(crew, "w", task, 1, '"' + "x" * 70_000 + '"')  # more than a dead letter carries
    await crew.finish("w", [task], "interrupted")
    await control.resume(crew.client, crew.keys, crew.uid, "t1")
    (task,) = await crew.take("w", 2)
    await keep(crew, "w", task, 2, "2")
    await crew.finish("w", [task], "dead")
    letter = await dead.find(crew.client, crew.keys, "t1")
    assert letter.prompt == "t1"
    await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=10)
    (task,) = await crew.take("w", 3)
    assert (task.attempt, list(await kept(crew, "w", task))) == (1, [1, 2])
    await crew.finish("w", [task], ttl_ms=1)
    await expired(crew, crew.keys.task("t1"))
    await crew.submit("t1")
    (task,) = await crew.take("w", 4)
    assert await kept(crew, "w", task) == {}, "another task of the same name"
    await keep(crew, "w", task, 1)
    await definitions.delete(crew.client, crew.keys, crew.uid)
    assert await crew.client.keys(crew.keys.prefix + "*") == []
    with pytest.raises(CrewGone):
        await keep(crew, "w", task, 2)
    assert await crew.client.keys(crew.keys.prefix + "*") == []
