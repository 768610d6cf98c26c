"""Attempts that fail are followed by others, later; and what that leaves behind."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta

from workshop import Make, agent

from waiting import until
from watchbill.tasks import RunResult, TaskResult

QUICK = {"backoff_seconds": 0.1, "max_attempts": 3}


async def test_a_task_is_tried_again_until_it_succeeds(make_crew: Make) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK)
    await crew.worker()
    await crew.submit("t", "a", "away:2")
    result = await crew.result("t")
    assert isinstance(result, TaskResult)
    assert (result.success, result.output, result.attempt) == (True, "attempt 3", 3)
    assert crew.executions() == {"t": 3}
    fences = [note["fence"] for note in crew.notes()]
    assert fences == sorted(set(fences)), "each attempt has a fence of its own, and a larger one"
    assert await crew.ends() == {("t", "completed"): 1}
    assert await crew.dead() == []
    told = [(event.event_type.value, event.message) for event in await crew.events()]
    assert [kind for kind, _ in told if kind.startswith("task_")] == [*["task_assigned"] * 3, "task_completed"]
    said = [message for kind, message in told if kind == "mission_event"]
    assert [message.split(" (")[0] for message in said] == [
        f"attempt {n} failed: OSError: the network is away" for n in (1, 2)
    ]
    assert await crew.is_idle()


async def test_after_the_last_attempt_a_task_is_a_dead_letter_with_all_that_helps_to_understand_it(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK)
    process = await crew.worker()
    (incarnation,) = await crew.incarnations(process)
    await crew.submit("t", "a", "away")
    result = await crew.result("t")
    assert isinstance(result, TaskResult)
    place = re.escape("(tests/worker/agents/broken_hands.py:") + r"\d+, in run\)"
    assert re.fullmatch(rf"OSError: the network is away {place}", result.error or "")
    assert (result.success, result.attempt) == (False, 3)
    assert crew.executions() == {"t": 3}
    assert await crew.redis.hget(crew.keys.task("t"), "state") == "dead"
    (letter,) = await crew.dead()
    assert letter["reason"] == result.error
    assert result.traceback == letter["error"], "it is in the result, too: the store may end before it"
    assert (letter["id"], letter["agent"], letter["attempt"], letter["class"]) == ("t", "a", "3", "5")
    assert letter["worker"] == incarnation
    assert letter["entry"].count("-") == 1
    assert letter["error"].startswith("Traceback")
    assert "hands.py" in letter["error"]
    assert letter["error"].rstrip().endswith("OSError: the network is away")


async def test_what_is_not_worth_another_try_ends_at_once_and_may_be_tried_again_unless_its_agent_gave_it_up(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK | {"backoff_seconds": 60})
    worker = await crew.worker()
    for kind in ("hopeless", "bug"):
        await crew.submit(kind, "a", kind)
    results = await crew.results(["hopeless", "bug"])
    assert [result.success for result in results] == [False, False]
    assert crew.executions() == {"hopeless": 1, "bug": 1}
    assert await crew.ends() == {("hopeless", "failed"): 1, ("bug", "dead"): 1}
    (letter,) = await crew.dead()
    assert (letter["id"], letter["error"].rstrip().endswith("TypeError: a fault of the code")) == ("bug", True)
    await until(lambda: "WARNING watchbill.worker: task bug of " in worker.log)
    assert "WARNING watchbill.worker: task hopeless of " not in worker.log


async def test_an_agent_says_after_how_long_it_is_to_be_tried_again(make_crew: Make) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK)
    await crew.worker()
    await crew.submit("t", "a", "busy:1")
    assert (await crew.result("t")).success
    one, two = (note["at"] for note in crew.notes())
    assert two - one >= 1.0, "and not after the crew's 0.1 s"


async def test_while_an_attempt_is_awaited_it_takes_no_slot_and_holds_up_nobody(make_crew: Make) -> None:
    agents = [agent("a", "Shaky", config={"again": 3600}), agent("b", "Brief")]
    crew = await make_crew(agents, tasks={"backoff_seconds": 0.01}, concurrency=1)
    await crew.worker()
    await crew.submit("slow", "a", "busy:1")
    await crew.started("slow")
    await crew.submit("quick", "b")
    assert (await crew.result("quick")).success
    figures = await crew.client.figures(crew.name)
    assert (figures.delayed, figures.running, figures.waiting) == (1, 0, 0)


async def test_a_step_is_tried_again_and_its_run_goes_on(make_crew: Make) -> None:
    crew = await make_crew({"one": "Shaky", "two": "Brief"}, tasks=QUICK)
    await crew.worker()
    await crew.submit("r", prompt="away:1")
    result = await crew.run_result("r")
    assert isinstance(result, RunResult)
    assert result.success
    assert result.steps["one"].attempt == 2
    assert crew.executions() == {"r/one": 2, "r/two": 1}
    assert await crew.is_idle()


async def test_a_step_that_fails_for_good_ends_its_run(make_crew: Make) -> None:
    crew = await make_crew({"one": "Shaky", "two": "Brief"}, tasks=QUICK)
    await crew.worker()
    await crew.submit("r", prompt="away")
    result = await crew.run_result("r")
    assert isinstance(result, RunResult)
    assert (result.status.value, result.skipped) == ("failed", ("two",))
    assert crew.executions() == {"r/one": 3}
    assert [letter["id"] for letter in await crew.dead()] == ["r/one"]


async def test_a_worker_that_dies_between_two_attempts_loses_neither_the_task_nor_its_count(make_crew: Make) -> None:
    crew = await make_crew({"a": "Shaky"}, tasks=QUICK)
    killed = await crew.worker()
    await crew.submit("t", "a", "busy:1")

    async def delayed() -> bool:
        return await crew.redis.hget(crew.keys.task("t"), "state") == "delayed"

    await until(delayed)
    killed.kill()
    await crew.worker()
    result = await crew.result("t")
    assert isinstance(result, TaskResult)
    assert (result.success, result.attempt) == (True, 2)
    assert crew.executions() == {"t": 2}


# ---------------------------------------------------------------- due later


async def test_a_task_for_a_time_begins_within_a_second_of_it_and_never_before(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, concurrency=1)
    await crew.worker(only_rung=True)  # it looks when something is due, and no oftener
    due = {f"t{i}": time.time() + 0.3 + 0.35 * i for i in range(6)}
    for name, at in sorted(due.items(), reverse=True):  # so that each becomes the next one
        await crew.submit(name, "a", scheduled_at=datetime.fromtimestamp(at, UTC))
    shift = time.time() - time.monotonic()
    await crew.results(list(due))
    late = sorted(note["at"] + shift - due[note["task"]] for note in crew.notes())
    assert late[0] >= 0
    assert late[-1] < 600, "a look by itself comes after an hour"
    assert set(crew.executions().values()) == {1}


async def test_a_worker_that_starts_later_does_what_became_due_meanwhile(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    await crew.submit("t", "a", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.2))
    await crew.submit("far", "a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await crew.submit("past", "a", scheduled_at=datetime.now(UTC) - timedelta(hours=1))
    await asyncio.sleep(0.3)
    await crew.worker()
    assert (await crew.result("t")).success
    assert (await crew.result("past")).success
    assert "far" not in crew.executions()
