"""What a crew does, on a store of each kind: the URL is all that differs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import servers
import workshop
from receiver import receiving

import forks
from waiting import until
from watchbill import connection
from watchbill.api import Heartbeat
from watchbill.api.hierarchy import Hierarchy
from watchbill.api.modes import Synthesis
from watchbill.client import Client
from watchbill.names import WAKE_PATTERN, CrewKeys
from watchbill.records import ExecutionMode
from watchbill.store import definitions, heartbeats
from watchbill.store.crews import CrewRedis
from watchbill.tasks import RUN_TERMINAL, AgentTask, RunState, TaskState

CrewIn = Callable[..., Any]
QUICK = {"backoff_seconds": 0.1, "max_attempts": 3}


def tasks_of(crew: workshop.Crew, count: int, prompt: str = "now") -> list[AgentTask]:
    return [AgentTask(task_id=f"m{i}", agent_name="a", prompt=prompt, crew_name=crew.name) for i in range(count)]


async def test_many_tasks_are_done_once_each_and_their_clients_hear_of_it(
    store: servers.Store, crew_in: CrewIn
) -> None:
    crew = await crew_in(store, {"a": "Brief"})
    worker = await crew.worker(concurrency=10)
    ids = await crew.client.submit_many(crew.name, "a", tasks_of(crew, 300))
    results = await crew.results(ids)
    assert all(result.success for result in results)
    assert crew.executions() == dict.fromkeys(ids, 1)
    assert await crew.ends() == {(task, "completed"): 1 for task in ids}
    assert await crew.is_idle()
    assert (await crew.client.figures(crew.name)).workers == 1
    assert await crew.client.unfinished(crew.name) == []
    await worker.drain()


async def test_results_are_delivered_once_each_and_again_by_a_replay(store: servers.Store, crew_in: CrewIn) -> None:
    async with receiving() as receiver:
        receiver.answers = [(410, {})]
        destinations = [receiver.destination("gone"), receiver.destination("ops")]
        crew = await crew_in(store, {"a": "Brief"}, delivery=destinations)
        await crew.worker(environment={"WATCHBILL_DELIVERY_ALLOW": "loopback"})
        await crew.client.submit(crew.name, "now", agent="a", id="first", deliver=["gone"])
        await until(lambda: receiver.got)

        async def dead() -> list[Any]:
            return [letter async for letter in crew.client.dead_letters(crew.name, deliveries=True)]

        (letter,) = await until(dead)
        await crew.define(delivery=[destinations[0].model_copy(update={"outcomes": ["Success"]}), destinations[1]])
        assert [told.outcome for told in await crew.client.replay(crew.name, letter.id, deliveries=True)] == [
            "replayed"
        ]
        ids = await crew.client.submit_many(crew.name, "a", tasks_of(crew, 50), deliver=["ops"])
        await until(lambda: len(receiver.got) == 52)
        assert sorted(receiver.tasks) == sorted([*ids, "first", "first"])
        listed = await crew.client.deliveries(crew.name)
        await until(lambda: _ended(crew))
        assert len(listed) == 51


async def _ended(crew: workshop.Crew) -> bool:
    return {one.state for one in await crew.client.deliveries(crew.name)} == {"completed"}


async def test_a_result_comes_by_message(
    store: servers.Store, crew_in: CrewIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by himself: the message has him look."""
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 60.0)
    crew = await crew_in(store, {"a": "Brief"})
    await crew.worker()
    for _ in range(5):
        result = await crew.client.run(crew.name, "now", agent="a", timeout=180)
        assert result.success


async def test_an_idle_worker_hears_the_bell(store: servers.Store, crew_in: CrewIn) -> None:
    crew = await crew_in(store, {"a": "Brief"}, lease_seconds=3600)
    await crew.worker(only_rung=True)
    for _ in range(5):
        result = await crew.client.run(crew.name, "now", agent="a", timeout=180)
        assert result.success


async def test_attempts_that_fail_are_followed_by_others_and_tasks_may_be_due_later(
    store: servers.Store, crew_in: CrewIn
) -> None:
    crew = await crew_in(store, {"a": "Shaky", "b": "Brief"}, tasks=QUICK)
    await crew.worker()
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    await crew.client.submit(crew.name, "now", agent="b", id="later", scheduled_at=due)
    await crew.submit("shaky", "a", "away:2")
    await crew.submit("hopeless", "a", "away")
    shaky, hopeless, later = await crew.results(["shaky", "hopeless", "later"])
    assert (shaky.success, shaky.attempt) == (True, 3)
    assert (hopeless.success, hopeless.attempt) == (False, 3)
    assert [letter["id"] for letter in await crew.dead()] == ["hopeless"]
    assert later.success
    assert later.completed_at is not None
    assert later.completed_at >= due - timedelta(seconds=0.05)
    assert await crew.is_idle()


@pytest.mark.parametrize("mode", [ExecutionMode.SEQUENTIAL, ExecutionMode.PARALLEL])
async def test_a_run_of_several_steps_and_what_is_told_of_it(
    store: servers.Store, crew_in: CrewIn, mode: ExecutionMode
) -> None:
    names = ["s1", "s2", "s3"]
    crew = await crew_in(store, dict.fromkeys(names, "Gate"), mode=mode)
    crew.open()
    await crew.worker()
    run = await crew.client.run(crew.name, "do it", id="r", timeout=180)
    assert run.status is RunState.COMPLETED
    assert [str(run.steps[name].output).split("\n")[0] for name in names] == [f"{name}: do it" for name in names]
    status = await crew.client.status(crew.name, "r")
    assert [step.status.value for step in status.steps] == ["completed"] * 3
    assert crew.executions() == {f"r/{name}": 1 for name in names}
    followed = []
    async with asyncio.timeout(180):
        async for _, event in crew.client.follow(crew.name, run="r"):
            followed.append(event)
            if event.new_state in RUN_TERMINAL:
                break
    assert {event.task_id for event in followed if event.event_type == "task_completed"} == {f"r/{n}" for n in names}


async def crews_that_grow(store: servers.Store, crew_in: CrewIn) -> list[workshop.Crew]:
    """With a list, a branch and an approval; a loop and a synthesis; a manager and reviews."""
    done = {"b@1": {"done": False}, "b@2": {"done": True}}
    verdicts = {"lead:1:review": {"approved": False, "reasons": "better"}, "lead:1:review2": {"approved": True}}

    def turn(name: str, outputs: dict[str, Any] | None = None, **fields: Any) -> Any:
        return workshop.agent(name, "Turn", config={"outputs": outputs or {}}, **fields)

    listed = await crew_in(
        store,
        [
            turn("a", {"a": [1, 2, 3]}),
            turn("r", {"r@2": "two"}, for_each="{steps.a}"),
            turn("c", when={"step": "a", "eq": "no"}),
            turn("d"),
        ],
        max_parallel_tasks=2,
        requires_approval=["d"],
    )
    looping = await crew_in(
        store,
        [turn("a"), turn("b", done)],
        mode=ExecutionMode.LOOP,
        loop={"maxIterations": 5, "until": {"agent": "b", "field": "done"}},
    )
    led = await crew_in(
        store,
        [
            workshop.agent("lead", "Turn", config={"delegates": ["a"]}),
            turn("a", {"lead:1:work2": "good"}),
            turn("critic", verdicts),
        ],
        mode=ExecutionMode.HIERARCHICAL,
        hierarchy=Hierarchy(manager="lead", reviewer="critic"),
    )
    summed = {"class": "turn_hands:Turn", "config": {"folder": str(looping.folder)}}
    await looping.define(synthesis=Synthesis.model_validate(summed))
    for crew in (listed, looping, led):
        crew.open()
    return [listed, looping, led]


async def test_each_mode_makes_its_steps_and_ends_them_once(store: servers.Store, crew_in: CrewIn) -> None:
    crews = await crews_that_grow(store, crew_in)
    listed = crews[0]
    async with AsyncExitStack() as stack:
        for crew in crews:
            await stack.enter_async_context(crew.in_process())
            await crew.submit("r")

        async def waits() -> bool:
            return bool(await listed.client.state(listed.name, "r/d") is TaskState.APPROVAL)

        await until(waits, what="the approval is asked for")
        assert await listed.client.approve(listed.name, "r/d")
        of_list, of_loop, of_lead = [await crew.run_result("r") for crew in crews]
    assert {run.status for run in (of_list, of_loop, of_lead)} == {RunState.COMPLETED}
    assert (of_list.steps["r"].output, of_list.passed_over, of_list.output) == (["r@1", "two", "r@3"], ("c",), "d")
    assert (of_loop.steps["until@2"].output, of_loop.output) == (True, "synthesis")
    assert of_lead.output == ["good"]
    steps = [f"r/{step}" for step in ("a", "r@each", "r@1", "r@2", "r@3", "r", "d")]
    assert await listed.ends() == {("r", "completed"): 1, ("r/c", "skipped"): 1} | {
        (step, "completed"): 1 for step in steps
    }
    for crew in crews:
        assert set((await crew.ends()).values()) == {1}
        assert await crew.is_idle()


async def test_what_a_killed_worker_ran_is_done_by_another_and_no_step_of_it_twice(
    store: servers.Store, crew_in: CrewIn
) -> None:
    lease = 3
    crew = await crew_in(store, {"a": "SecondTime", "s": "Stepper"}, lease_seconds=lease)
    first = await crew.worker()
    await crew.submit("t", "a")
    await crew.submit("s", "s", "a !b c")
    await crew.started("t")
    await until(lambda: len(crew.notes("did")) == 2, what="the second step")
    second = await crew.worker()
    killed = first.kill()
    result = await crew.result("t")
    assert time.monotonic() - killed < lease + 2 + 60, "60 s for a busy machine"
    assert result.output == "attempt 2"
    assert (await crew.result("s")).output == [["a", 1], ["!b", 2], ["c", 2]]
    assert [note["step"] for note in crew.notes("did")] == ["a", "!b", "!b", "c"]
    assert crew.started_by(second) == {"t", "s"}
    assert await crew.ends() == {("t", "completed"): 1, ("s", "completed"): 1}


async def test_a_worker_that_is_asked_to_stop_hands_back(store: servers.Store, crew_in: CrewIn) -> None:
    crew = await crew_in(store, {"a": "Gate"}, lease_seconds=60)
    worker = await crew.worker(grace_seconds=0)
    await crew.submit("t", "a")
    await crew.started("t")
    await worker.drain()
    crew.open()
    await crew.worker()
    assert (await crew.result("t", timeout=180)).attempt == 1


async def test_a_worker_process_as_it_runs_in_a_pod(store: servers.Store, crew_in: CrewIn) -> None:
    crew = await crew_in(store, {"a": "Brief"})
    environment = {
        "WATCHBILL_REDIS_URL": store.url,
        "WATCHBILL_CREW": crew.name,
        "WATCHBILL_FOLDERS": str(workshop.AGENTS),
    }
    with (crew.folder / "stderr").open("w") as err:
        process = forks.start(["-m", "watchbill.worker"], stdout=err, stderr=err, env=os.environ | environment)
    try:
        result = await crew.client.run(crew.name, "now", agent="a", timeout=180)
        assert result.success
        process.terminate()
        code = await asyncio.to_thread(process.wait, 180)
        assert (code, (crew.folder / "stderr").read_text()) == (0, "")
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- many crews at once


async def test_crews_heartbeats_and_records_of_many_slots(store: servers.Store, crew_in: CrewIn) -> None:
    crews = [await crew_in(store, {"a": "Brief"}) for _ in range(12)]
    if store.kind == "cluster":
        assert len({store.home(crew.keys.meta).port for crew in crews}) > 1, "they are on several nodes"
    client = crews[0].redis
    absent = CrewKeys("test", "absent")
    found = await definitions.identities(client, [*(crew.keys for crew in crews), absent])
    assert [identity.uid for identity in found] == [*(crew.uid for crew in crews), ""]
    async with CrewRedis(store.url, tenant=crews[0].keys.crew.replace("/", "-"), db=0, strict=True) as records:
        for crew in crews:
            assert await records.save_crew(crew.definition)
        assert set(await records.list_crews()) == {crew.definition.name for crew in crews}
        assert len(await records.get_all_crews()) == len(crews)
        assert await records.update_crew_metadata(crews[0].definition.name, {"a": 1})
        assert await records.clear_all_crews() == len(crews)
    now = datetime.now(UTC)
    for crew in crews[:3]:
        for name in ("one", "two"):
            beat = Heartbeat.model_validate(
                {
                    "apiVersion": "watchbill.dev/v1alpha1",
                    "kind": "Heartbeat",
                    "metadata": {"name": name},
                    "spec": {
                        "crewRef": {"name": crew.definition.name},
                        "schedule": "0 0 1 1 *",
                        "agent": "a",
                        "prompt": "x",
                    },
                }
            )
            await heartbeats.apply(client, crew.keys, crew.uid, beat, now=now)
        states = await heartbeats.all_of(client, crew.keys)
        assert [state.name for state in states] == ["one", "two"]
        fired = await crew.client.fire(crew.name, "one", token="t")
        assert await crew.client.unfinished(crew.name) == [fired]
    for crew in crews:
        assert await definitions.delete(client, crew.keys, crew.uid)
    assert {identity.uid for identity in await definitions.identities(client, [crew.keys for crew in crews])} == {""}


async def test_whoever_scales_workers_hears_of_work_wherever_it_is(store: servers.Store, crew_in: CrewIn) -> None:
    crews = [await crew_in(store, {"a": "Brief"}) for _ in range(6)]
    async with connection.connected(store.url) as client:
        ears = client.pubsub(ignore_subscribe_messages=True)
        await ears.psubscribe(WAKE_PATTERN)
        heard: set[str] = set()

        async def hear() -> bool:
            message = await ears.get_message(timeout=0.2)
            if message:
                heard.add(message["channel"])
            return heard >= {crew.keys.wake for crew in crews}

        await hear()  # it is subscribed now
        for crew in crews:
            await crew.submit("t", "a")
        await until(hear, what="all crews' work")
        await ears.aclose()


async def test_one_client_hears_of_many_crews(store: servers.Store, crew_in: CrewIn) -> None:
    crews = [await crew_in(store, {"a": "Brief"}) for _ in range(3)]
    for crew in crews:
        await crew.worker()
    async with Client(store.url) as client:
        results = await asyncio.gather(
            *(client.run(crew.name, "now", agent="a", timeout=180) for crew in crews for _ in range(5))
        )
    assert all(result.success for result in results)
