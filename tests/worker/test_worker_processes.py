"""Agents in processes of their own: the same to the outside as any other, killed when their time is up, never left."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_worker_tasks import REASONS
from workshop import Make, agent

from waiting import until
from watchbill.agents.sources import Sources
from watchbill.tasks import TaskResult
from watchbill.worker.execution import processes
from watchbill.worker.execution.shared_lease import SharedLease

ONCE = {"max_attempts": 1}


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def output_of(crew: Any, task_id: str, name: str, prompt: str) -> Any:
    await crew.submit(task_id, name, prompt)
    result = await crew.result(task_id)
    assert result.success, result.error
    return result.output


# ---------------------------------------------------------------- the same as any other


async def test_an_agent_in_a_process_is_given_all_that_an_agent_is_given(make_crew: Make) -> None:
    crew = await make_crew([agent("one", "Brief"), agent("two", "Apart", prompt="given")], shared_tools=["calculator"])
    async with crew.in_process():
        before = datetime.now(UTC)
        await crew.submit("r", prompt="9", inputs={"log": "line 1\nline 2"}, user_id="u")
        crew.open()
        run = await crew.run_result("r")
    assert run.success, run.error
    given = run.steps["two"].output
    task = given.pop("task")
    deadline = datetime.fromisoformat(given.pop("deadline"))
    assert timedelta(seconds=290) < deadline - before < timedelta(seconds=330)
    assert (task["task_id"], task["agent_name"], task["user_id"], task["prompt"]) == ("r/two", "two", "u", "9")
    fence = next(note["fence"] for note in crew.notes() if note["task"] == "r/two")
    assert given == {
        "crew": crew.name,
        "agent": "two",
        "run_id": "r",
        "inputs": {"log": "line 1\nline 2"},
        "outputs": {"one": "9"},
        "answer": 42,
        "attempt": 1,
        "fence": fence,
        "cancelled": False,
        "thread": True,
    }


async def test_functions_and_coroutines_run_in_processes_too_one_after_another_in_the_same(make_crew: Make) -> None:
    crew = await make_crew(
        [agent("class", "Apart"), agent("function", "apart", notes=False), agent("async", "ApartAsync", notes=False)]
    )
    async with crew.in_process():
        pids = {
            await output_of(crew, "a", "class", "pid"),
            await output_of(crew, "b", "function", ""),
            (await output_of(crew, "c", "async", "hello"))[1],
        }
        assert [await output_of(crew, f"s{n}", "class", "state") for n in range(3)] == [1, 2, 3]
        assert pids.isdisjoint({os.getpid()})
        assert len(pids) == 1
        said = [event.message for event in await crew.events() if event.event_type == "mission_event"]
        assert sorted(said) == ["says 0", "says 1", "says 2"]
        (pid,) = pids
        assert lives(pid)
    assert not lives(pid), "it ends with its worker"


async def test_there_are_never_more_processes_than_slots(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"}, concurrency=2)
    async with crew.in_process():
        for number in range(8):
            await crew.submit(f"t{number}", "a", "pid")
        pids = {result.output for result in await crew.results([f"t{n}" for n in range(8)])}
        assert 1 <= len(pids) <= 2


async def test_what_it_says_is_on_the_feed_in_order_before_its_end(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"})
    async with crew.in_process():
        await output_of(crew, "t", "a", "say:20")
    told = [event for event in await crew.events() if event.task_id == "t"]
    said = [event.message for event in told if event.event_type == "mission_event"]
    assert said == [f"says {i}" for i in range(20)]
    kinds = [str(event.event_type) for event in told]
    assert kinds.index("task_completed") > max(i for i, kind in enumerate(kinds) if kind == "mission_event")


async def test_what_a_thread_that_it_left_behind_says_is_not_taken_for_another_tasks_words(
    make_crew: Make, tmp_path: Path
) -> None:
    crew = await make_crew({"a": "Apart"})
    late = tmp_path / "late"
    async with crew.in_process():
        await output_of(crew, "one", "a", f"say_later:{late}")
        late.touch()
        assert await output_of(crew, "two", "a", "say:3") == "said"
        await until(Path(f"{late}.refused").exists, what="the refusal")
    assert Path(f"{late}.refused").read_text() == "its task has ended, or runs in the process that forked this one"
    said = [event.message for event in await crew.events() if event.event_type == "mission_event"]
    assert said == ["says 0", "says 1", "says 2"]


async def test_what_it_logs_is_logged_by_its_worker_without_secrets(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"})
    worker = await crew.worker(environment={"A_SECRET_TOKEN": "hunter2-hunter2"})
    assert await output_of(crew, "t", "a", "log") == "logged"
    assert f"WARNING agent {crew.keys.crew}/a task=t: logged by a: [redacted A_SECRET_TOKEN]\n" in worker.log
    assert f"ERROR agent {crew.keys.crew}/a task=t: with its traceback\n    Traceback" in worker.log
    assert worker.log.count("ValueError: caught\n") == 1
    assert "not worth telling" not in worker.log
    assert "hunter2" not in worker.log


async def test_what_it_logs_carries_who_it_was(make_crew: Make, caplog: pytest.LogCaptureFixture) -> None:
    crew = await make_crew({"a": "Apart"})
    with caplog.at_level(logging.INFO, "watchbill.agent"):
        async with crew.in_process():
            await output_of(crew, "t", "a", "log")
    (record,) = [r for r in caplog.records if r.getMessage().startswith("logged by a")]
    assert (record.crew, record.agent, record.task) == (crew.name, "a", "t")  # type: ignore[attr-defined]


async def test_what_it_prints_goes_where_its_workers_prints_go(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"})
    worker = await crew.worker()
    await output_of(crew, "t", "a", "print")
    assert "printed\n" in worker.said
    assert "printed as an error\n" in worker.log


async def test_what_it_has_used_is_counted(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"})
    async with crew.in_process():
        await crew.submit("t", "a", "spend")
        result = await crew.result("t")
    usage = result.usage
    assert usage is not None
    assert result.metadata == {"of": "a process"}
    assert (usage.input_tokens, usage.output_tokens, usage.requests) == (3, 4, 1)


async def test_what_it_returns_is_stored_as_of_any_other_agent(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"})
    async with crew.in_process():
        assert await output_of(crew, "t", "a", "tuple") == [1, {"€": None}, [2.5]]


# ---------------------------------------------------------------- failing


async def test_every_way_to_fail_ends_in_a_failed_result_with_the_error(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"}, concurrency=2, tasks=ONCE)
    reasons = {what: reason for some in REASONS.values() for what, reason in some.items()}
    async with crew.in_process() as worker:
        for number, what in enumerate(reasons):
            await crew.submit(f"t{number}", "a", f"mischief:{what}")
        results = await crew.results([f"t{n}" for n in range(len(reasons))], 180)
        wrong = {
            what: f"success={result.success}, error={(result.error or '')[:200]!r}"
            for (what, reason), result in zip(reasons.items(), results, strict=True)
            if result.success or not re.search(reason, result.error or "") or len(result.error or "") > 100_000
        }
        assert wrong == {}
        assert (await output_of(crew, "after", "a", "pid")) != os.getpid()
        assert worker.running == 0


async def test_a_failure_keeps_its_traceback_and_what_it_says_of_another_try(make_crew: Make) -> None:
    crew = await make_crew(
        [agent("a", "Apart"), agent("b", "ShakyApart")], tasks={"max_attempts": 3, "backoff_seconds": 0.1}
    )
    async with crew.in_process():
        await crew.submit("dead", "a", "mischief:ValueError")
        for kind in ("busy:1", "hopeless", "bug"):
            await crew.submit(kind.partition(":")[0], "b", kind)
        results = dict(
            zip(
                ("dead", "busy", "hopeless", "bug"),
                await crew.results(["dead", "busy", "hopeless", "bug"]),
                strict=True,
            )
        )
    letters = {letter["id"]: letter for letter in await crew.dead()}
    assert set(letters) == {"dead", "bug"}
    assert "TypeError: a fault of the code" in letters["bug"]["error"]
    letter = letters["dead"]
    assert letter["error"].startswith("Traceback")
    assert "hands.py" in letter["error"]
    assert letter["error"].rstrip().endswith("ValueError: it broke")
    assert isinstance(results["busy"], TaskResult)
    assert (results["busy"].success, results["busy"].attempt) == (True, 2)
    one, two = (note["at"] for note in crew.notes() if note["task"] == "busy")
    assert two - one >= 1.0, "it asked for a second"
    assert crew.executions() == {"dead": 3, "busy": 2, "hopeless": 1, "bug": 1}


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("end:exit", "its process exited with code 66 before the agent returned"),
        ("end:SIGKILL", "its process died of SIGKILL (out of memory?) before the agent returned"),
        ("end:SIGSEGV", "its process died of SIGSEGV before the agent returned"),
        ("fork_and_die", "its process exited with code 66 before the agent returned"),
        ("start_by_shell_and_die", "its process exited with code 66 before the agent returned"),
    ],
)
async def test_a_process_that_dies_fails_the_attempt_at_once_and_not_the_worker(
    make_crew: Make, how: str, error: str
) -> None:
    crew = await make_crew({"a": "Apart"}, concurrency=1, tasks={"max_attempts": 2, "backoff_seconds": 0.05})
    worker = await crew.worker()
    await crew.submit("t", "a", how)
    result = await crew.result("t")  # long before its time is up
    assert (result.success, result.error, result.attempt) == (False, error, 2)
    assert len({note["pid"] for note in crew.notes()}) == 2, "each attempt in a process of its own"
    assert await output_of(crew, "next", "a", "pid") != worker.pid
    assert worker.lives
    for group in {note["group"] for note in crew.notes() if note["task"] == "t"}:
        await until(lambda g=group: subprocess.run(["pgrep", "-g", str(g)]).returncode == 1, what="its forks' end")  # type: ignore[misc]


async def test_a_process_that_dies_between_two_tasks_costs_neither(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"}, tasks=ONCE)
    async with crew.in_process():
        pid = await output_of(crew, "one", "a", "pid")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not lives(pid))
        assert await output_of(crew, "two", "a", "pid") != pid


# ---------------------------------------------------------------- ending


@pytest.mark.parametrize("what", ["hold_interpreter", "start_another"])
async def test_a_process_whose_time_is_up_is_killed_and_all_that_it_started(make_crew: Make, what: str) -> None:
    """The process is there before, so that its start takes none of the time."""
    agents = [agent("a", "Apart", timeout_seconds=2), agent("patient", "Apart")]
    crew = await make_crew(agents, concurrency=1, tasks=ONCE)
    async with crew.in_process() as worker:
        pid = await output_of(crew, "before", "patient", "pid")
        await crew.submit("t", "a", what)
        assert (await crew.result("t")).error == "timed out after 2 s"
        assert crew.executions() == {"before": 1, "t": 1}
        assert not lives(pid), "its slot was free only when it had ended"
        for other in crew.notes("other"):
            await until(lambda pid=other["other"]: not lives(pid))  # type: ignore[misc]
        assert worker.running == 0
        assert await output_of(crew, "next", "patient", "pid") != pid


async def test_a_process_is_not_abandoned_when_its_task_is_handed_back(make_crew: Make) -> None:
    crew = await make_crew({"a": "Apart"}, lease_seconds=5)
    worker = await crew.worker(grace_seconds=0.2)
    await crew.submit("t", "a", "hold_interpreter")
    await crew.started("t")
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    await until(lambda: not lives(crew.notes()[0]["pid"]), what="its end")
    assert await crew.redis.hget(crew.keys.task("t"), "state") == "waiting"
    assert "still runs" not in worker.log


@pytest.mark.parametrize("what", ["pid", "hold_interpreter", "start_another"])
async def test_no_process_outlives_a_worker_that_is_killed(make_crew: Make, what: str) -> None:
    crew = await make_crew({"a": "Apart"}, lease_seconds=3600)
    worker = await crew.worker()
    await crew.submit("t", "a", what)
    await crew.started("t")
    if what == "start_another":
        await until(lambda: crew.notes("other"))
    else:
        await asyncio.sleep(0.2)  # so that it has begun to do that
    pids = [crew.notes()[0]["pid"], *(note["other"] for note in crew.notes("other"))]
    assert all(map(lives, pids))
    worker.kill()
    await until(lambda: not any(map(lives, pids)), what="the end of its processes")


async def test_a_process_ends_with_its_line_where_the_kernel_has_no_signal_for_that() -> None:
    lease = SharedLease()
    lease.extend(math.inf)
    process = processes._Process(Sources(), lease)
    process._socket.close()
    assert await until(process.ended) == -signal.SIGKILL
    process.close()


async def test_ctrl_c_in_a_terminal_is_the_workers_to_answer(make_crew: Make) -> None:
    """The agent goes on while its worker drains: a signal to the worker's process group doesn't reach it."""
    crew = await make_crew({"a": "Apart"})
    worker = await crew.worker()
    await output_of(crew, "t", "a", "pid")
    (note,) = crew.notes()
    assert note["group"] == note["pid"] != os.getpgid(worker.pid)
