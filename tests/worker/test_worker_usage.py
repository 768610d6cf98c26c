"""What attempts spent adds up: in results, runs, dead letters and what is shown, whatever became of each attempt."""

from __future__ import annotations

from workshop import Crew, Make, agent

from waiting import until
from watchbill.tasks import RunResult, Usage
from watchbill.worker.execution.attempt import Attempt

QUICK = {"backoff_seconds": 0, "max_attempts": 3}


def spent(attempts: int) -> Usage:
    return Usage(input_tokens=1000 * attempts, output_tokens=100 * attempts, requests=attempts)


async def usage(crew: Crew, task: str) -> Usage | None:
    return (await crew.result(task)).usage


async def test_attempts_that_failed_or_took_too_long_are_added_up(make_crew: Make) -> None:
    agents = [agent("a", "Spender"), agent("slow", "Spender", timeout_seconds=1), agent("free", "Shaky")]
    crew = await make_crew(agents, tasks=QUICK)
    await crew.worker()
    await crew.submit("fails", "a")
    await crew.submit("slow", "slow", "slow")
    await crew.submit("large", "a", "x" * 5000)
    await crew.submit("free", "free", "away:2")
    for task in ("fails", "slow", "large"):
        assert await usage(crew, task) == spent(3)
    assert await usage(crew, "free") is None


async def test_what_a_process_spent_before_it_died_or_was_killed_counts(make_crew: Make) -> None:
    """In the first attempt it dies; in the second its time is up, once the worker knows what it spent."""
    crew = await make_crew({"a": "SpenderApart"}, tasks=QUICK)
    async with crew.in_process() as worker:
        await crew.submit("t", "a")

        def second() -> Attempt | None:
            job = worker._state.incarnation.jobs.get("t")
            attempt = job.attempt if job and job.task.attempt == 2 else None
            return attempt if isinstance(attempt, Attempt) else None

        attempt = await until(lambda: (found := second()) and found.context.usage and found)
        attempt._time_out()
        result = await crew.result("t")
    assert (result.success, result.attempt) == (True, 3)
    assert result.usage == spent(3)


async def test_the_steps_of_a_run_are_added_up_while_it_runs_and_at_its_end(make_crew: Make) -> None:
    crew = await make_crew({"a": "Spender", "b": "Spender"}, tasks=QUICK)
    await crew.worker()
    result = await crew.client.run(crew.name, "go", id="r")
    assert isinstance(result, RunResult)
    assert [step.usage for step in result.steps.values()] == [spent(3)] * 2
    assert result.usage == spent(6)
    assert [step.tokens for step in (await crew.client.status(crew.name, "r")).steps] == [3300, 3300]


async def test_what_was_interrupted_resumed_and_then_cancelled_says_what_it_cost(make_crew: Make) -> None:
    crew = await make_crew({"a": "Spender"}, tasks=QUICK, lease_seconds=3)
    await crew.worker()
    await crew.submit("t", "a", "wait")
    await crew.submit("r", prompt="wait")
    for task in ("t", "r/a"):
        for times in (1, 2):
            await until(lambda t=task, n=times: _count(crew, t) == n)  # type: ignore[misc]
            if times == 1:
                await crew.client.interrupt(crew.name, task)
                await until(lambda t=task: _is(crew, t, "interrupted"))  # type: ignore[misc]
                assert await crew.client.resume(crew.name, task)
        await crew.client.cancel(crew.name, task)
        assert await usage(crew, task) == spent(2)
    assert await usage(crew, "r") == spent(2)


def _count(crew: Crew, task: str) -> int:
    return sum(note["task"] == task for note in crew.notes("spent"))


async def _is(crew: Crew, task: str, state: str) -> bool:
    return (await crew.client.state(crew.name, task)).value == state


async def test_dead_letters_say_what_was_spent_and_a_replay_adds_to_it(make_crew: Make) -> None:
    crew = await make_crew({"a": "Spender"}, tasks=QUICK)
    await crew.worker()
    await crew.submit("t", "a", "hopeless")
    await crew.submit("r", prompt="hopeless")
    for task in ("t", "r/a"):
        assert await usage(crew, task) == spent(3)
    for task in ("t", "r/a"):
        assert (await crew.client.dead_letter(crew.name, task)).usage == spent(3)
    await crew.redis.delete(crew.keys.task("t"))  # the letter alone is left
    await crew.redis.zrem(crew.keys.ids, "t")
    for task in ("t", "r/a"):
        ((outcome),) = await crew.client.replay(crew.name, task)
        assert outcome.outcome == "replayed"
        assert await until(lambda t=task: _ended(crew, t)) == spent(6)  # type: ignore[misc]


async def _ended(crew: Crew, task: str) -> Usage | None:
    result = await crew.client.result(crew.name, task)
    return result.usage if result else None
