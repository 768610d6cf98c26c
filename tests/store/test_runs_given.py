"""What entries of steps carry of the steps before: what is small and final. Whoever claims one reads nothing then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import Crew, flow_of, lenient, library
from test_run_steps import LIST, held

from watchbill.records import ExecutionMode
from watchbill.store import dead, packed, run_steps, runs
from watchbill.store.queue import Claimed

FORK = flow_of([("a", "c"), ("b", "c")])


async def ended(crew: Crew, worker: str, outputs: dict[str, Any]) -> list[Claimed]:
    """Ends the steps of a run's beginning with these outputs; None: it has failed."""
    tasks = [task for task in await crew.take(worker) if task.step in outputs]
    for task in tasks:
        output = outputs[task.step or ""]
        await crew.finish(worker, [task], "completed" if output is not None else "dead", output=output)
    return tasks


async def claimed(crew: Crew, worker: str = "w", number: int = 2) -> Claimed:
    (task,) = await crew.claim(worker, number)
    return task


async def test_a_step_comes_with_the_results_of_those_before_it(crew: Crew) -> None:
    await crew.run("r", FORK, parallel=1)  # so that it has waited for the run's bound, too
    for number, name in enumerate("ab", 1):
        (task,) = await crew.take("w", number)
        await crew.finish("w", [task], output={"it": f"ä\n{name}\x1f"})
    task = await claimed(crew, number=3)
    stored = await crew.client.hgetall(crew.keys.run_results("r"))
    assert packed.given(task.given) == stored
    assert {name: runs.completed(text) for name, text in stored.items()} == {
        name: {"it": f"ä\n{name}\x1f"} for name in "ab"
    }


@pytest.mark.parametrize(
    "outputs",
    [{"a": "x" * 5000, "b": 1}, {"a": "x" * 3000, "b": "x" * 3000}, {"a": 1, "b": None}],
    ids=["one is large", "together they are large", "one has failed, and may be replayed"],
)
async def test_what_is_large_or_may_change_is_read(crew: Crew, outputs: dict[str, Any]) -> None:
    await crew.run("r", lenient(FORK, "b"))
    await ended(crew, "w", outputs)
    task = await claimed(crew)
    assert (task.step, task.given) == ("c", "")
    assert task.payload


async def test_behind_a_large_output_no_entry_of_the_run_carries_any(crew: Crew) -> None:
    """Looking for them would cost the store as much as they are large."""
    await crew.run("r", flow_of([("a", "c"), ("b", "d")]))
    await ended(crew, "w", {"a": "x" * 5000, "b": 1})
    assert {task.step: task.given for task in await crew.claim("w", 2)} == {"c": "", "d": ""}


async def test_behind_a_step_that_failed_at_length_and_was_replayed_entries_carry_outputs(crew: Crew) -> None:
    await crew.run("r", FORK)
    first, second = await crew.take("w")
    await crew.finish("w", [first], output=1)
    await crew.finish("w", [second], "dead", output="x" * 5000)
    (letter,) = [letter async for letter in dead.letters(crew.client, crew.keys)]
    await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=100)
    await crew.finish("w", [await claimed(crew)], output=2)
    given = packed.given((await claimed(crew, number=3)).given)
    assert {name: runs.completed(text) for name, text in given.items()} == {"a": 1, "b": 2}


async def test_behind_a_step_that_was_skipped_its_output_is_read(crew: Crew) -> None:
    await crew.run("r", FORK)
    first, second = await crew.take("w")
    await crew.finish("w", [first])
    await crew.finish("w", [second], "skipped")
    assert (await claimed(crew)).given == ""


async def test_a_step_that_is_replayed_comes_with_what_is_there_then(crew: Crew) -> None:
    await crew.run("r", FORK)
    await ended(crew, "w", {"a": 1, "b": None})
    (letter,) = [letter async for letter in dead.letters(crew.client, crew.keys)]
    await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=100)
    await crew.finish("w", [await claimed(crew)], output=2)
    given = packed.given((await claimed(crew, number=3)).given)
    assert {name: runs.completed(text) for name, text in given.items()} == {"a": 1, "b": 2}


async def test_what_an_entry_carries_goes_with_it_to_another_worker(crew: Crew) -> None:
    await crew.run("r", flow_of([("a", "b")]))
    await ended(crew, "w", {"a": 1})
    task = await claimed(crew)
    assert task.given
    assert (await claimed(crew)).given == "", "a claim that is asked again leaves out what its tasks are to do"
    await crew.queue.hand_back("w", [task])
    again = await claimed(crew, "x", 1)
    assert again.given == task.given
    await crew.queue.declare_dead(["x"])
    assert (await claimed(crew, "y", 1)).given == task.given


async def test_an_attempt_after_the_first_reads(crew: Crew) -> None:
    await crew.run("r", flow_of([("a", "b")]))
    await ended(crew, "w", {"a": 1})
    await crew.finish("w", [await claimed(crew)], "retry", ttl_ms=0)
    again = await claimed(crew, number=3)
    assert (again.step, again.attempt, again.given) == ("b", 2, "")


async def test_the_step_of_an_item_comes_with_it(crew: Crew) -> None:
    await crew.run("r", LIST, parallel=2)  # the second item waits for the run's bound
    (task,) = await crew.take("w")
    items = [{"it": "ä\x1f"}, "x" * 5000, None]
    await run_steps.add_items(crew.client, held(crew, task), "list", "list", items, lenient=False, room=100)
    await crew.finish("w", [task])
    found: dict[str, str] = {}
    for number in (2, 3):
        tasks = await crew.claim("w", number)
        found |= {task.step or "": task.given for task in tasks}
        await crew.finish("w", tasks)
    assert [json.loads(packed.given(found[f"list@{n}"])[""]) for n in (1, 3)] == [{"it": "ä\x1f"}, None]
    assert found["list@2"] == ""


async def test_the_first_iteration_of_a_loop_is_given_likewise(crew: Crew) -> None:
    await crew.run("r", library("a", "b", mode=ExecutionMode.LOOP, loop={"maxIterations": 9}))
    await ended(crew, "w", {"a@1": 1})
    assert list(packed.given((await claimed(crew)).given)) == ["a@1"]
