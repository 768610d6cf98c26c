"""Tasks that wait for approval: before they begin, and while they run, beside workers that die."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.errors import Conflict
from watchbill.plan.approvals import PROMPT_MAX
from watchbill.records import ExecutionMode
from watchbill.tasks import TaskState


async def _waits(crew: Crew, task_id: str, what: str = "") -> None:
    async def asked() -> bool:
        known = (await crew.client.approvals(crew.name, task_id)).get(task_id, [])
        is_aside = await crew.client.state(crew.name, task_id) is TaskState.APPROVAL
        return is_aside and [one.state for one in known if what in one.what] == ["waiting"]

    await until(asked, what=f"{task_id} waits for approval")


async def test_a_step_that_needs_approval_begins_once_it_is_given_whoever_dies(make_crew: Make) -> None:
    crew = await make_crew(
        {"draft": "Brief", "send": "Brief"}, mode=ExecutionMode.SEQUENTIAL, requires_approval=["send"]
    )
    first = await crew.worker(concurrency=1)
    await crew.client.submit(crew.name, "the letter", id="r")
    await _waits(crew, "r/send")
    first.kill()
    await until(lambda: crew.waits(0), what="nothing waits for a slot")
    async with crew.in_process(concurrency=1):
        await crew.submit("beside", "draft", "0")
        assert (await crew.result("beside")).success
        assert crew.executions() == {"r/draft": 1, "beside": 1}
        told = [e for e in await crew.events(run="r") if e.event_type == "mission_help_needed"]
        assert [(e.task_id, e.message.partition(" What")[0]) for e in told] == [
            ("r/send", "waits for approval to begin: the letter")
        ]
        assert await crew.client.approve(crew.name, "r/send", reason="well said")
        result = await crew.run_result("r")
        assert (result.success, result.steps["send"].attempt) == (True, 1)
        assert not await crew.client.approve(crew.name, "r/send")
    assert crew.executions() == {"r/draft": 1, "r/send": 1, "beside": 1}
    (known,) = (await crew.client.approvals(crew.name, "r"))["r/send"]
    assert (known.what, known.state, known.reason) == ("", "approved", "well said")
    assert await crew.is_idle()


async def test_who_approves_of_a_beginning_is_shown_the_whole_prompt_without_secrets(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "hunter2-hunter2")
    long = "a\n\x1e b \x1f" + "x" * 5000
    crew = await make_crew({"a": "Brief"}, requires_approval=["a"])
    async with crew.in_process():
        await crew.submit("t", "a", f"{long} hunter2-hunter2")
        await _waits(crew, "t")
        (asked,) = (await crew.client.approvals(crew.name, "t"))["t"]
        assert json.loads(asked.details) == f"{long} [redacted SHOP_TOKEN]"
        assert await crew.client.approve(crew.name, "t")
        assert (await crew.result("t")).success
        (known,) = (await crew.client.approvals(crew.name, "t"))["t"]
        assert (known.what, known.state, known.details) == ("", "approved", asked.details)


async def test_the_approval_of_one_prompt_lets_no_other_begin(make_crew: Make) -> None:
    steps = [agent("draft", "ChangesItsMind"), agent("send", "FailsOnce", prompt="{steps.draft}")]
    crew = await make_crew(steps, requires_approval=["send"], on_error="Continue")
    async with crew.in_process():
        await crew.submit("r")
        await _waits(crew, "r/send")
        (first,) = (await crew.client.approvals(crew.name, "r"))["r/send"]
        assert "broke" in first.details
        assert await crew.client.approve(crew.name, "r/send", reason="tell them")
        assert (await crew.run_result("r")).steps["send"].success is False
        await crew.client.replay(crew.name, "r/draft")
        await until(lambda: crew.executions()["r/draft"] == 2, what="the draft is written anew")
        assert (await crew.result("r/draft")).output == "Pay Ann"
        await crew.client.replay(crew.name, "r/send")
        await _waits(crew, "r/send")
        (known,) = (await crew.client.approvals(crew.name, "r"))["r/send"]
        assert (known.details, known.reason) == ('"Pay Ann"', "")
        assert crew.executions()["r/send"] == 1
        assert await crew.client.approve(crew.name, "r/send")
        assert (await crew.run_result("r")).steps["send"].output == "Pay Ann"


@pytest.mark.parametrize("now", ["Pay Ann", "Pay Mallory"])
async def test_a_replay_begins_without_another_approval_only_with_the_same_prompt(make_crew: Make, now: str) -> None:
    crew = await make_crew([agent("a", "FailsOnce", prompt="Pay Ann")], requires_approval=["a"])
    async with crew.in_process():
        await crew.submit("t", "a")
        await _waits(crew, "t")
        assert await crew.client.approve(crew.name, "t", reason="she is owed it")
        assert not (await crew.result("t")).success
        await crew.define(agents=[crew.definition.agents[0].model_copy(update={"prompt": now})])
        await crew.client.replay(crew.name, "t")
        if now != "Pay Ann":
            await _waits(crew, "t")
            assert crew.executions()["t"] == 1
            assert await crew.client.approve(crew.name, "t")
        result = await crew.result("t")
        assert (result.success, result.output) == (True, now)


async def test_a_prompt_that_is_too_long_to_be_shown_is_not_asked_approval_for(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Brief", prompt="{inputs.log}")], requires_approval=["a"])
    async with crew.in_process():
        await crew.submit("t", "a", inputs={"log": "x" * (PROMPT_MAX + 1)})
        result = await crew.result("t")
    assert "its prompt has 1,048,577 characters, and whoever approves must see all of them" in result.error
    assert crew.executions() == {}


async def test_an_agent_asks_and_begins_anew_with_each_approval(make_crew: Make) -> None:
    crew = await make_crew({"a": "Pays", "b": "PaysInThread", "c": "PaysInProcess"}, tasks={"max_attempts": 1})
    async with crew.in_process(concurrency=1):
        await crew.submit("t", "a", "rent wages")
        for what in ("rent", "wages"):
            await _waits(crew, "t", f"pay {what}")
            assert await crew.client.approve(crew.name, "t", reason=f"{what} is due")
        result: Any = await crew.result("t")
        assert (result.output, result.attempt) == (["rent is due", "wages is due"], 1)
        assert crew.executions()["t"] == 3

        await crew.submit("u", "b")
        await _waits(crew, "u")
        assert await crew.client.reject(crew.name, "u", reason="no money")
        result = await crew.result("u")
        assert (result.success, result.attempt) == (False, 1)
        assert result.error.startswith("ApprovalRejected: rejected: no money (what it asked for: pay)")
        assert await crew.client.state(crew.name, "u") is TaskState.FAILED
        with pytest.raises(Conflict, match="it is failed"):
            await crew.client.approve(crew.name, "u")

        await crew.submit("v", "c")
        await _waits(crew, "v")
        assert await crew.client.approve(crew.name, "v", reason="in a process")
        assert (await crew.result("v")).output == "in a process"
    assert await crew.is_idle()


async def test_what_nobody_approves_in_time_or_somebody_rejects_has_failed_and_never_begun(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, requires_approval=["a"], approval_timeout_seconds=1)
    async with crew.in_process():
        await crew.submit("t", "a")
        result: Any = await crew.result("t")
        assert result.error == "ApprovalTimedOut: nobody approved within 1 s (it asked to begin)"
        await crew.define(approval_timeout_seconds=3600)
        await crew.submit("u", "a")
        await _waits(crew, "u")
        assert await crew.client.reject(crew.name, "u")
        result = await crew.result("u")
        assert result.error == "ApprovalRejected: rejected: without a reason (it asked to begin)"
    assert (crew.executions(), await crew.dead()) == ({}, [])
    states = [await crew.client.state(crew.name, task) for task in ("t", "u")]
    assert states == [TaskState.FAILED, TaskState.FAILED]


async def test_what_waits_outlives_its_worker_and_can_be_cancelled_without_one(make_crew: Make) -> None:
    crew = await make_crew({"a": "Pays"})
    process = await crew.worker()
    await crew.submit("t", "a", "rent")
    await crew.submit("u", "a", "wages")
    for task in ("t", "u"):
        await _waits(crew, task)
    await process.drain()
    assert await crew.client.cancel(crew.name, "t", reason="never mind")
    await crew.client.approve(crew.name, "u", reason="they are due")
    await crew.worker()
    assert (await crew.result("u")).output == ["they are due"]
    assert (await crew.result("t")).error == "cancelled: never mind"


async def test_what_waits_and_what_was_decided_outlive_the_store(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    server = await private_redis()
    crew = await make_crew(
        {"draft": "Brief", "send": "Brief"}, mode=ExecutionMode.SEQUENTIAL, requires_approval=["send"], url=server.url
    )
    async with crew.in_process():
        await crew.client.submit(crew.name, "the letter", id="r")
        await _waits(crew, "r/send")
    await server.restart()
    await _waits(crew, "r/send")
    assert await crew.client.approve(crew.name, "r/send", reason="well said")
    await server.restart()
    (known,) = (await crew.client.approvals(crew.name, "r"))["r/send"]
    assert (known.state, known.reason) == ("approved", "well said")
    async with crew.in_process():
        result = await crew.run_result("r")
    assert (result.success, result.steps["send"].attempt) == (True, 1)
    assert crew.executions() == {"r/draft": 1, "r/send": 1}
    assert await crew.is_idle()
