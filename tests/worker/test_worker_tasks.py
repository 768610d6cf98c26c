"""What becomes of one task: what its agent is given, how long it may take, and every way to fail."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import broken_hands
import pytest
from workshop import Make, agent

from waiting import until
from watchbill.plan import values
from watchbill.records import ExecutionMode, FlowRelation
from watchbill.tasks import RunResult, RunState, TaskResult

# ---------------------------------------------------------------- failing


MOMENT = timedelta(seconds=1)
"""By so much the store's clock, which is told in milliseconds, may seem to be ahead."""
REASONS = {
    "exceptions": {
        "ValueError": "ValueError: it broke",
        "KeyError": "KeyError: 'missing'",
        "StopIteration": "StopIteration",
        "TimeoutError": "TimeoutError: of its own",
        "RecursionError": "RecursionError: ",
        "MemoryError": "MemoryError: no room",
        "AssertionError": "AssertionError",
        "Mute": "Mute, which can't say what it is: RuntimeError",
        "Unattributable": "Unattributable: the API refused",
        "Untouchable": "Untouchable, which can't say what it is: SystemExit",
        "an iterator's": "ConnectionError: in a row",
        "ConnectionError": "ConnectionError: not the store's",
        "concurrent.CancelledError": "CancelledError: of a pool",
    },
    "not Exceptions": {
        "SystemExit": "SystemExit: 3",
        "KeyboardInterrupt": "KeyboardInterrupt: ctrl-c",
        "GeneratorExit": "GeneratorExit: bye",
        "CancelledError": "CancelledError: of its own",
        "Odd": "Odd: odd",
        "group": "several .2 sub-exceptions.",
    },
    "errors that can't be stored as they are": {
        "huge error": "ValueError: xxxxxxxx",
        "surrogate error": "ValueError: lone ",
        "endless pause": "ValueError: much later",
    },
    "outputs that can't be stored": {
        "object": "can't be stored as JSON",
        "circle": "can't be stored as JSON",
        "deep": "can't be stored as JSON",
        "too deep to read": "can't be stored as JSON.*nested",
        "20 MB": "JSON: more than 16777216 bytes",
        "20 MB of euros": "JSON: more than 16777216 bytes",
        "endless": "JSON: more than 16777216 bytes",
        "long integer": r"JSON: output\.n\[1\] is an integer of more than 4300 digits",
        "not a number": r"JSON: output\.rows\[1\]\.mean is NaN",
        "one key": "JSON: output has the keys 1 and '1', which are one in JSON",
    },
}
"""What is done → what its error must say."""


assert [*(what for some in REASONS.values() for what in some), "half an emoji"] == list(broken_hands.MISCHIEF)


@pytest.mark.parametrize("group", REASONS)
async def test_every_way_to_fail_ends_in_a_failed_result_with_the_error_and_the_worker_lives_on(
    make_crew: Make, group: str
) -> None:
    """All of a group at once in one worker, on its loop and in threads; nothing of it may harm the worker."""
    crew = await make_crew(
        {"async": "Mischief", "thread": "ThreadMischief", "good": "Brief"}, concurrency=5, tasks={"max_attempts": 1}
    )
    worker = await crew.worker()
    await crew.submit("before", "good", "0.5")
    ids = {
        (kind, what): f"{kind}-{number}" for kind in ("async", "thread") for number, what in enumerate(REASONS[group])
    }
    for (kind, what), task_id in ids.items():
        await crew.submit(task_id, kind, what)
    results = await asyncio.gather(*(crew.result(i) for i in ids.values()), return_exceptions=True)
    wrong = {}
    for (kind, what), result in zip(ids, results, strict=True):
        if isinstance(result, BaseException):
            wrong[kind, what] = f"never ended: {result!r}"
        elif result.success or not re.search(REASONS[group][what], result.error or ""):
            wrong[kind, what] = f"success={result.success}, error={(result.error or '')[:200]!r}"
        elif len(result.error or "") > 100_000:
            wrong[kind, what] = f"an error of {len(result.error or '')} characters"
    assert worker.lives, f"it ended with {worker.process.returncode}: {worker.log[-2000:]}"
    assert wrong == {}
    assert set(crew.executions().values()) == {1}
    await crew.submit("after", "good")
    assert [result.success for result in await crew.results(["before", "after"])] == [True, True]
    ends = await crew.ends()
    assert ends == {(i, "dead"): 1 for i in ids.values()} | {(i, "completed"): 1 for i in ("before", "after")}
    feed = {event.task_id: event.message for event in await crew.events() if event.event_type == "task_failed"}
    assert set(feed) == set(ids.values())
    assert all(re.search(REASONS[group][what], feed[task_id]) for (_, what), task_id in ids.items())
    assert await crew.is_idle()


async def test_who_reports_as_usage_what_is_none_has_failed_and_holds_no_slot(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "reports_junk", notes=False), agent("good", "Brief")], concurrency=1)
    async with crew.in_process():
        await crew.submit("t", "a")
        result = await crew.result("t")
        assert str(result.error).startswith("TypeError: report_usage takes a watchbill.tasks.Usage, and not 'dict'")
        await crew.submit("after", "good")
        assert (await crew.result("after")).success


@pytest.mark.parametrize("kind", ["Mischief", "ThreadMischief", "Apart"])
async def test_half_of_an_emoji_costs_that_character_and_not_the_answer(make_crew: Make, kind: str) -> None:
    crew = await make_crew({"a": kind})
    async with crew.in_process():
        await crew.submit("t", "a", "mischief:half an emoji" if kind == "Apart" else "half an emoji")
        result = await crew.result("t")
    assert isinstance(result, TaskResult)
    assert (result.output, result.metadata) == (["cut off \ufffd", "whole 🎈"], {"replaced_characters": 1})


async def test_an_agent_may_say_anything_and_the_feed_stays_readable(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "say_odd_things", notes=False)])
    async with crew.in_process():
        await crew.submit("t", "a")
        result = await crew.result("t")
    said = [event.message for event in await crew.events(agent="a") if event.event_type == "mission_event"]
    assert "plain" in said
    assert 'quotes " and \\ and \n and \x01 and €' in said
    assert any(message.startswith("zzzz") and len(message) <= 4000 for message in said)
    assert result.success, result.error
    assert len(result.output) <= 2, "lone surrogates may be refused, as the agent's own error; or stored readably"


async def test_a_failed_step_ends_its_run_as_failed_with_its_error(make_crew: Make) -> None:
    bad = agent("bad", "Mischief", prompt="{input}")
    crew = await make_crew([agent("one", "Brief"), bad, agent("three", "Brief")])
    async with crew.in_process():
        await crew.submit("r", prompt="ValueError")
        run = await crew.run_result("r")
    assert run.status is RunState.FAILED
    assert (run.error or "").startswith("bad: ValueError: it broke (tests/worker/agents/broken_hands.py:")
    assert run.skipped == ("three",)
    assert run.steps["one"].success


# ---------------------------------------------------------------- timeouts


async def test_a_task_may_take_as_long_as_its_agent_or_else_the_crew_says(make_crew: Make) -> None:
    agents = [
        agent("async-1", "Gate", timeout_seconds=1),
        agent("async-5", "Gate"),
        agent("thread-1", "ThreadGate", timeout_seconds=1),
        agent("thread-5", "ThreadGate"),
    ]
    crew = await make_crew(agents, tasks={"timeout_seconds": 5, "max_attempts": 1})
    async with crew.in_process() as worker:
        began = time.monotonic()
        for one in agents:
            await crew.submit(one.agent_id, one.agent_id)
        results = await crew.results([f"{kind}-1" for kind in ("async", "thread")])
        assert time.monotonic() - began > 0.9
        results += await crew.results([f"{kind}-5" for kind in ("async", "thread")])
        assert time.monotonic() - began > 4.9
        assert [result.error for result in results] == ["timed out after 1 s"] * 2 + ["timed out after 5 s"] * 2
        assert not any(result.success for result in results)
        assert worker.running == 0
        assert {line["task"] for line in crew.notes("cancelled")} == {"async-1", "async-5"}
        crew.open()  # for the threads, which nobody can cancel
        await until(lambda: {line["task"] for line in crew.notes("spoke")} == {"thread-1", "thread-5"})
    ends = await crew.ends()
    assert ends == {(one.agent_id, "dead"): 1 for one in agents}, "what they return is too late"
    assert {task for task, _ in list(ends)[:2]} == {"async-1", "thread-1"}
    said = [event for event in await crew.events() if event.event_type == "mission_event"]
    assert said == [], "and so is what they say"


async def test_a_thread_that_outlives_its_worker_opens_no_connection_to_say_so(make_crew: Make) -> None:
    """Nobody would close it: the worker, and its client, have ended."""
    crew = await make_crew([agent("a", "ThreadGate", timeout_seconds=1)])
    async with crew.in_process():
        await crew.submit("t", "a")
        assert (await crew.result("t")).error == "timed out after 1 s"
    before = {connection["id"] for connection in await crew.redis.client_list()}
    crew.open()
    await until(lambda: crew.notes("spoke"))
    assert {connection["id"] for connection in await crew.redis.client_list()} <= before


async def test_an_agent_that_swallows_its_cancellation_times_out_too(make_crew: Make) -> None:
    agents = [agent("a", "Stubborn", timeout_seconds=1), agent("b", "Brief")]
    crew = await make_crew(agents, concurrency=2, tasks={"max_attempts": 1})
    worker = await crew.worker()
    await crew.submit("t", "a")
    result = await crew.result("t")
    assert result.error == "timed out after 1 s"
    assert len(crew.notes("swallowed")) >= 1
    await crew.submit("next", "b")
    assert (await crew.result("next")).success, "it holds no more than its own slot"
    assert worker.lives


# ---------------------------------------------------------------- what an agent is given


CALCULATOR = {"shared_tools": ["calculator"]}


def seen(run: RunResult, name: str) -> Any:
    return run.steps[name].output


async def test_a_step_of_a_sequence_is_given_all_that_came_before(make_crew: Make) -> None:
    agents = [agent(name, "Inspect", notes=False) for name in ("a", "b", "c")]
    agents[1] = agents[1].model_copy(update={"prompt": "{input}, after {steps.a}, with {inputs.log}"})
    crew = await make_crew(agents, **CALCULATOR)
    async with crew.in_process():
        before = datetime.now(UTC)
        await crew.submit("r", prompt="Look", inputs={"log": "line 1\nline 2"}, user_id="u", metadata={"k": "v"})
        run = await crew.run_result("r")
    a, b, c = (seen(run, name) for name in ("a", "b", "c"))
    assert (a["outputs"], b["order"], c["order"]) == ({}, ["a"], ["a", "b"])
    assert c["outputs"] == {"a": "a", "b": "b"}
    assert a["prompt"] == "Look"
    assert str(b["prompt"]).startswith("Look, after {")
    assert str(b["prompt"]).endswith(", with line 1\nline 2")
    parts = (f"## {name}\n\n{values.as_text(output)}" for name, output in (("a", a), ("b", b)))
    assert c["prompt"] == "Look\n\nWhat came before:\n\n" + "\n\n".join(parts)
    assert len(values.as_text(a)) > 200, "nothing is cut"
    for step in (a, b, c):
        assert step["crew"] == crew.name
        assert step["run_id"] == "r"
        assert step["inputs"] == {"log": "line 1\nline 2"}
        assert (step["tools"], step["answer"]) == (["calculator"], 42)
        assert step["attempt"] == 1
        began = datetime.fromisoformat(str(step["deadline"])) - timedelta(seconds=300)
        assert before - MOMENT < began < datetime.now(UTC) + MOMENT, "the default of 300 s"
        task = step["task"]
        assert isinstance(task, dict)
        assert (task["task_id"], task["agent_name"]) == (f"r/{step['agent']}", step["agent"])
        assert (task["prompt"], task["user_id"], task["metadata"]) == ("Look", "u", {"k": "v"})
    assert a["fence"] < b["fence"] < c["fence"]


async def test_a_step_of_a_flow_is_given_what_it_depends_on_and_what_it_cites(make_crew: Make) -> None:
    agents = [agent(name, "Inspect", notes=False) for name in ("a", "b", "c", "d")]
    agents[3] = agents[3].model_copy(update={"prompt": "{steps.a}"})
    relations = [FlowRelation(source=s, target=t) for s, t in (("a", "b"), ("b", "c"), ("b", "d"))]
    crew = await make_crew(agents, mode=ExecutionMode.FLOW, flow_relations=relations)
    async with crew.in_process():
        await crew.submit("r")
        run = await crew.run_result("r")
    orders = {name: seen(run, name)["order"] for name in "abcd"}
    assert orders == {"a": [], "b": ["a"], "c": ["b"], "d": ["a", "b"]}
    assert run.success
    assert set(run.output) == {"c", "d"}


async def test_a_parallel_step_is_given_nothing_of_the_others(make_crew: Make) -> None:
    agents = [agent(name, "Inspect", notes=False) for name in ("a", "b")]
    crew = await make_crew(agents, mode=ExecutionMode.PARALLEL, max_parallel_tasks=1)
    async with crew.in_process():
        await crew.submit("r", prompt="Look")
        run = await crew.run_result("r")
    assert [seen(run, name)["outputs"] for name in "ab"] == [{}, {}]
    assert [seen(run, name)["prompt"] for name in "ab"] == ["Look", "Look"]


async def test_what_an_agent_says_is_on_the_feeds_of_crew_agent_and_run_once(
    make_crew: Make, caplog: pytest.LogCaptureFixture
) -> None:
    agents = [agent("a", "Inspect", notes=False), agent("f", "inspect_sync", notes=False)]
    crew = await make_crew(agents)
    with caplog.at_level(logging.INFO, "watchbill.agent"):
        async with crew.in_process():
            await crew.submit("r")
            await crew.submit("t", "a")
            run = await crew.run_result("r")
            await crew.result("t")
    assert str(seen(run, "f")).startswith("watchbill-agent"), "a function that isn't async runs in a thread"

    async def said(**which: str) -> list[tuple[str, str, str | None, str]]:
        found = await crew.events(**which)
        told = [event for event in found if event.event_type == "mission_event"]
        return sorted((event.agent_id, event.task_id, event.mission_id, event.message) for event in told)

    of_run_a = ("a", "r/a", "r", "hello from a")
    of_run_f = ("f", "r/f", "r", "hello from a thread")
    of_task = ("a", "t", None, "hello from a")
    assert await said() == [of_run_a, of_task, of_run_f]
    assert await said(agent="a") == [of_run_a, of_task]
    assert await said(agent="f") == [of_run_f]
    assert await said(run="r") == [of_run_a, of_run_f]
    (record, _) = [r for r in caplog.records if r.getMessage() == "logged by a"]
    assert (record.crew, record.agent) == (crew.name, "a")  # type: ignore[attr-defined]


async def test_an_agent_reads_its_own_config_and_a_task_of_its_own_has_no_run(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Inspect", notes=False, config={"n": 1, "deep": {"list": [1, 2]}})])
    async with crew.in_process():
        await crew.submit("t", "a", inputs={})
        output = (await crew.result("t")).output
    assert output["config"] == {"n": 1, "deep": {"list": [1, 2]}}
    assert (output["run_id"], output["outputs"], output["tools"]) == (None, {}, [])
    assert output["task"]["task_id"] == "t"


async def test_a_result_carries_the_tasks_metadata_and_what_the_agent_adds_prevails(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief", "f": "Mischief"}, tasks={"max_attempts": 1})
    metadata = {"source": {"id": 7}, "outcome": "cancelled"}
    async with crew.in_process():
        await crew.submit("done", "a", metadata=metadata)
        await crew.submit("broken", "f", "ValueError", metadata=metadata)
        later = datetime.now(UTC) + timedelta(days=1)
        await crew.submit("cancelled", "a", metadata=metadata, scheduled_at=later)
        assert await crew.client.cancel(crew.name, "cancelled")
        results = await crew.results(["done", "broken", "cancelled"])
        await crew.submit("odd", "f", "half an emoji", metadata={"replaced_characters": 0, "by": "me"})
        assert (await crew.result("odd")).metadata == {"replaced_characters": 1, "by": "me"}
    assert [result.metadata for result in results] == [metadata] * 3
    assert [(result.success, result.cancelled) for result in results] == [(True, False), (False, False), (False, True)]
