"""The backlog of a role over a real store: which agent gets a task, and when none does."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from asks import ask_to_cancel, ask_to_interrupt, ask_to_resume
from role_calls import REVIEWERS, give_roles, taken
from support import SHORT_MS, Crew, finished

from waiting import until
from watchbill.errors import Fenced
from watchbill.names import LIMITED
from watchbill.plan.why import Reason, explain
from watchbill.store import dead, events, figures, packed, runs, why
from watchbill.tasks import Priority, TaskResult

KINDS = {"t": REVIEWERS, "a": "ann", "b": "bob", "o": "other"}


async def agent_of(crew: Crew, task: str) -> str:
    return str(await crew.client.hget(crew.keys.task(task), "agent"))


async def test_the_one_with_the_fewest_gets_it_and_of_equals_the_first(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann"}, {"agent_id": "bob"}, {"agent_id": "other", "roles": []})
    await crew.submit("busy", agent="ann")
    await crew.submit("t1", "t2", "t3", "t4", agent=REVIEWERS)
    given = {task.id: task.agent for task in await crew.take("w")}
    assert given == {"busy": "ann", "t1": "bob", "t2": "ann", "t3": "bob", "t4": "ann"}
    assert await agent_of(crew, "t1") == "bob"


async def test_no_agent_of_the_role_has_more_than_it_may(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "one", "max_concurrent": 1}, {"agent_id": "two", "max_concurrent": 2})
    await crew.submit(*(f"t{i}" for i in range(20)), agent=REVIEWERS)
    await crew.submit("else", agent="two")
    done: list[str] = []
    tasks = list(await crew.take("w"))
    while tasks:
        running = Counter(task.agent for task in tasks)
        assert running["one"] <= 1
        assert running["two"] <= 2
        assert len(tasks) == 3 or len(done) + len(tasks) == 21, "a place stays empty"
        seen = await figures.figures(crew.client, crew.keys)
        assert (seen.waiting, seen.running) == (0, len(tasks))
        ended = tasks.pop(0)
        await crew.finish("w", [ended])
        done.append(ended.id)
        tasks += await taken(crew, "w")
    assert [name for name in done if name != "else"] == sorted((f"t{i}" for i in range(20)), key=lambda t: int(t[1:]))
    assert len(done) == 21
    await crew.assert_idle()


async def test_what_finds_no_room_waits_without_a_slot_or_an_attempt_and_says_why(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1})
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    (first,) = await crew.take("w")
    seen = await figures.figures(crew.client, crew.keys)
    assert (seen.waiting, seen.running, seen.parked_by["limit"]) == (0, 1, 2)
    held = packed.Holder.unpack(await crew.client.hget(crew.keys.holders, "t3"))
    assert (held.incarnation, held.attempt) == (LIMITED + REVIEWERS, 1)
    told = explain(await why.seen(crew.client, crew.keys, "t3"))
    assert (told.reason, told.agent, told.role) == (Reason.LIMITED, "", "reviewer")
    assert told.message == (
        "no agent of role 'reviewer' has room by its maxConcurrent and its rateLimit; they run 1 tasks; "
        "1 tasks of the role come first"
    )
    told = explain(await why.seen(crew.client, crew.keys, "t1"))
    assert (told.reason, told.agent, told.role) == (Reason.RUNNING, "ann", "reviewer")
    await crew.client.delete(crew.keys.bell)
    await crew.finish("w", [first])
    assert await crew.bell(), "nobody claimed with it"
    assert [(t.id, t.attempt, t.agent) for t in await taken(crew, "w")] == [("t2", 1, "ann")]


async def test_a_rate_holds_for_the_agents_of_a_role(crew: Crew) -> None:
    rate = {"requests": 1, "periodSeconds": 3600}
    await give_roles(crew, {"agent_id": "ann", "rate_limit": rate}, {"agent_id": "bob", "rate_limit": rate})
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    claim = await crew.queue.claim("w", 1, 10, lease_ms=60_000, take_over=True)
    assert {task.id: task.agent for task in claim.tasks} == {"t1": "ann", "t2": "bob"}
    await crew.finish("w", claim.tasks)
    assert await taken(crew, "w") == ()
    seen = await figures.figures(crew.client, crew.keys)
    assert seen.due_in_ms is not None
    assert 3_500_000 < seen.due_in_ms <= 3_600_000


async def test_the_choice_is_told_once_with_the_claim_on_both_feeds(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann"})
    await crew.submit("t1", agent=REVIEWERS)
    claim = await crew.queue.claim("w", 1, 10, lease_ms=60_000, take_over=True)
    again = await crew.queue.claim("w", 1, 10, lease_ms=60_000, take_over=True)
    assert [(t.id, t.agent) for t in again.tasks] == [(t.id, t.agent) for t in claim.tasks] == [("t1", "ann")]
    await crew.finish("w", claim.tasks)
    for agent in (None, "ann"):
        stream = events.stream(crew.keys, agent=agent)
        found = [event for _, event in await events.recent(crew.client, stream, 20)]
        told = [event for event in found if event.event_type == "mission_work_assigned"]
        assert [(event.agent_id, event.task_id, event.message) for event in told] == [("ann", "t1", "of role reviewer")]


@pytest.mark.parametrize("outcome", ["retry", "later"])
async def test_a_failed_attempt_may_go_to_another_and_a_postponed_one_goes_on(crew: Crew, outcome: Any) -> None:
    await give_roles(crew, {"agent_id": "ann"}, {"agent_id": "bob"})
    await crew.submit("t1", agent=REVIEWERS)
    (first,) = await crew.take("w")
    await crew.finish("w", [first], outcome, ttl_ms=1)
    await crew.submit("busy", agent="ann")
    tasks = {}

    async def both() -> bool:
        tasks.update({task.id: task for task in await taken(crew, "w")})
        return len(tasks) == 2

    await until(both)
    again = tasks["t1"]
    expected = ("ann", 1) if outcome == "later" else ("bob", 2)
    if again.agent == "ann" and outcome == "retry":  # it came before the other
        expected = ("ann", 2)
    assert (again.agent, again.attempt) == expected
    assert await agent_of(crew, "t1") == again.agent
    await crew.finish("w", tasks.values())
    await crew.assert_idle()


async def test_a_dead_workers_task_gets_an_agent_anew_and_its_place_comes_free(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1}, {"agent_id": "bob", "max_concurrent": 1})
    await crew.submit("t1", agent=REVIEWERS)
    assert [t.agent for t in await crew.take("w", lease_ms=SHORT_MS)] == ["ann"]
    assert await crew.take("v", 1, take_over=False) == (), "its lease runs"
    (again,) = await until(lambda: taken(crew, "v"))
    assert (again.id, again.attempt) == ("t1", 2)
    assert await crew.client.hgetall(crew.keys.agents) == {again.agent: "1"}
    meta = await crew.client.hgetall(crew.keys.meta)
    assert {name: meta[f"held:{name}"] for name in ("ann", "bob")} == {
        name: "1" if name == again.agent else "0" for name in ("ann", "bob")
    }
    await crew.submit("t2", agent=REVIEWERS)
    (other,) = await taken(crew, "v")
    assert {again.agent, other.agent} == {"ann", "bob"}
    await crew.finish("v", [again, other])
    assert await crew.client.hgetall(crew.keys.agents) == {}
    await crew.assert_idle()


@pytest.mark.parametrize("how", ["handed back", "parked", "interrupted", "cancelled", "dead"])
async def test_whatever_becomes_of_it_it_can_go_on_or_is_gone(crew: Crew, how: Any) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1})
    await crew.submit("t1", "t2", agent=REVIEWERS)
    (first,) = await crew.take("w")
    match how:
        case "handed back":
            await crew.queue.hand_back("w", [first])
        case "parked":
            await crew.queue.park("w", [first], "no such agent")
            (members,) = (await crew.queue.parked_agents()).values()
        case "interrupted" | "cancelled":
            await (ask_to_interrupt if how == "interrupted" else ask_to_cancel)(crew, "t1")
            await crew.finish("w", [first], how)
        case "dead":
            await crew.finish("w", [first], "dead", message="broken")
    tasks = list(await taken(crew, "w"))
    assert [t.id for t in tasks] == ["t1" if how == "handed back" else "t2"]
    assert await crew.client.hget(crew.keys.meta, "held:ann") == "1"
    await crew.finish("w", tasks)
    match how:
        case "handed back":
            tasks = list(await taken(crew, "w"))
        case "parked":
            assert await crew.queue.unpark(members) == 1
            tasks = list(await taken(crew, "w"))
        case "interrupted":
            await ask_to_resume(crew, "t1")
            tasks = list(await taken(crew, "w"))
        case "dead":
            (letter,) = await crew.client.xrange(crew.keys.dead)
            assert (letter[1]["agent"], letter[1]["role"]) == ("ann", REVIEWERS)
            await crew.client.delete(crew.keys.task("t1"))
            await crew.client.zrem(crew.keys.ids, "t1")
            letters = [one async for one in dead.letters(crew.client, crew.keys)]
            await dead.replay(crew.client, crew.keys, crew.uid, letters, max_queued=10)
            tasks = list(await taken(crew, "w"))
        case _:
            tasks = []
    assert [t.agent for t in tasks] == ([] if how == "cancelled" else ["ann"])
    await crew.finish("w", tasks)
    await crew.assert_idle()


async def test_what_waits_is_stopped_at_once(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1})
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    (first,) = await crew.take("w")
    await ask_to_cancel(crew, "t2")
    assert await crew.state("t2") == "cancelled"
    await ask_to_cancel(crew, "t1")
    await crew.finish("w", [first], "cancelled")
    results = [await runs.result(crew.client, crew.keys, task) for task in ("t1", "t2")]
    assert [(one.agent_name, one.role) for one in results if isinstance(one, TaskResult)] == [
        ("ann", "reviewer"),
        ("", "reviewer"),
    ]
    assert [t.id for t in await taken(crew, "w")] == ["t3"]


async def test_the_feeds_name_no_agent_while_no_agent_has_it(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1})
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    tasks = await crew.take("w")
    await give_roles(crew, {"agent_id": "ann", "roles": []})
    await crew.queue.park("w", await taken(crew, "w", 1), "no such agent")
    await crew.finish("w", tasks, "retry", ttl_ms=60_000)
    for task in ("t1", "t2", "t3"):
        await ask_to_cancel(crew, task)
    told = [event for event in await crew.events() if event["event_type"] in ("task_cancelled", "mission_event")]
    assert sorted((event["task_id"], event["event_type"], event.get("agent_id")) for event in told) == [
        ("t1", "mission_event", "ann"),
        ("t1", "task_cancelled", None),
        ("t2", "mission_event", None),
        ("t2", "task_cancelled", None),
        ("t3", "task_cancelled", None),
    ]
    assert await crew.events(crew.keys.agent_events(REVIEWERS)) == []


async def test_a_place_counts_once_for_scaling_however_many_wait_for_it(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1}, {"agent_id": "bob", "max_concurrent": 1})
    await crew.submit("a1", "a2", agent="ann")
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    first = await crew.take("w")
    assert [(t.id, t.agent) for t in first] == [("a1", "ann"), ("t1", "bob")]
    await crew.finish("w", first)
    seen = await figures.figures(crew.client, crew.keys)
    assert (seen.waiting, seen.parked_by["limit"]) == (2, 1)


async def test_a_task_whose_entry_names_another_agent_is_of_no_role(crew: Crew) -> None:
    await crew.submit("t1", agent="ann")
    await crew.client.hset(crew.keys.task("t1"), "agent", "renamed")
    await crew.finish("w", await crew.take("w"))
    assert (await crew.client.hmget(crew.keys.task("t1"), "agent", "role")) == ["renamed", None]


async def test_what_a_worker_without_roles_ended_as_dead_goes_to_the_role_when_it_is_replayed(crew: Crew) -> None:
    """One of the release before takes the role for the name of an agent, which its crew doesn't have."""
    await crew.submit("t1", agent=REVIEWERS)
    await crew.finish("w", await crew.take("w"), "dead", message="agent 'role:reviewer' is not in crew 'c'")
    await give_roles(crew, {"agent_id": "ann"})
    letters = [one async for one in dead.letters(crew.client, crew.keys)]
    await dead.replay(crew.client, crew.keys, crew.uid, letters, max_queued=10)
    tasks = await taken(crew, "w")
    assert [(t.id, t.agent, t.attempt) for t in tasks] == [("t1", "ann", 1)]
    await crew.finish("w", tasks)
    await crew.assert_idle()


async def test_limits_as_the_release_before_wrote_them_hold_beside_tasks_of_a_role(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1, "roles": []})
    assert await crew.client.hget(crew.keys.meta, "limits") == "ann\x1f1\x1f\x1f"
    await crew.submit("a1", "a2", agent="ann")
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await crew.take("w")
    assert [(t.id, t.agent) for t in tasks] == [("a1", "ann"), ("t1", REVIEWERS)], "which parks it"
    await crew.finish("w", tasks)


async def test_a_worker_gets_nothing_of_a_role_for_an_agent_that_it_lacks_while_it_can_run_another(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann"}, {"agent_id": "bob", "max_concurrent": 2})
    crew.queue.role_feeds.can_run("ann", able=False)
    await crew.submit("t2", "t3", "t4", agent=REVIEWERS)
    tasks = list(await taken(crew, "w"))
    assert [(t.id, t.agent) for t in tasks] == [("t2", "bob"), ("t3", "bob")], "and the next waits for bob"
    crew.queue.role_feeds.can_run("ann", able=True)
    tasks += await taken(crew, "w")
    assert (tasks[-1].id, tasks[-1].agent) == ("t4", "ann")
    for name in ("ann", "bob"):
        crew.queue.role_feeds.can_run(name, able=False)
    await crew.submit("t5", agent=REVIEWERS)
    tasks += await taken(crew, "w")
    assert tasks[-1].id == "t5", "it can run none, and says so"
    await crew.finish("w", tasks)


async def test_a_role_that_is_gone_keeps_no_task_waiting(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1})
    await crew.submit("t1", "t2", "t3", agent=REVIEWERS)
    (first,) = await crew.take("w")
    await give_roles(crew, {"agent_id": "ann", "roles": []})
    tasks = await taken(crew, "w")
    assert [(t.id, t.agent) for t in tasks] == [("t2", REVIEWERS), ("t3", REVIEWERS)], "which parks them"
    await crew.finish("w", [first, *tasks])
    await give_roles(crew, {"agent_id": "ann", "roles": []})
    assert [name for name in await crew.client.hgetall(crew.keys.meta) if name.startswith(("limit", "held:"))] == []
    await crew.assert_idle()


async def test_an_agent_that_gets_the_role_takes_from_what_waits(crew: Crew) -> None:
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1}, {"agent_id": "bob", "roles": ["writer"]})
    await crew.submit("t1", "t2", agent=REVIEWERS)
    assert [t.agent for t in await crew.take("w")] == ["ann"]
    await give_roles(crew, {"agent_id": "ann", "max_concurrent": 1}, {"agent_id": "bob"})
    assert [t.agent for t in await taken(crew, "w")] == ["bob"]


async def test_crews_without_roles_pay_nothing(crew: Crew) -> None:
    assert tuple(crew.queue.role_feeds.claim_keys) == tuple(crew.keys.fixed)
    await crew.submit("t1")
    record = await crew.client.hgetall(crew.keys.task("t1"))
    (task,) = await crew.take("w")
    await crew.finish("w", [task])
    assert "role" not in record | await crew.client.hgetall(crew.keys.task("t1"))
    assert "limits" not in await crew.client.hgetall(crew.keys.meta)


async def test_with_workers_killed_no_agent_of_a_role_has_more_than_it_may_and_none_is_lost(crew: Crew) -> None:
    """Work of a role, of its agents and of another, over workers that vanish, hand back and fail at any moment."""
    rng, most = random.Random(5), {"ann": 2, "bob": 1}
    await give_roles(crew, *({"agent_id": name, "max_concurrent": n} for name, n in most.items()))
    for kind, agent in KINDS.items():
        await crew.submit(*(f"{kind}{i}" for i in range(10)), agent=agent)
    await crew.submit(*(f"late{i}" for i in range(5)), agent=REVIEWERS, priority=Priority.LOW)
    total, ends, seen = 10 * len(KINDS) + 5, Counter[str](), Counter[str]()

    async def life(name: str) -> None:
        for number in itertools.count(1):
            if rng.random() < 0.1 or len(ends) == total:
                return
            claim = await crew.queue.claim(name, number, rng.randint(1, 4), lease_ms=SHORT_MS, take_over=True, begin=2)
            await asyncio.sleep(0.001 if claim.tasks else 0.005)
            match rng.choice(("end", "end", "end", "retry", "hand back", "die")) if claim.tasks else "":
                case "die":
                    return
                case "hand back":
                    await crew.queue.hand_back(name, claim.tasks)
                case "retry":
                    await crew.finish(name, claim.tasks, "retry", ttl_ms=1)
                case "end":
                    answers, _ = await crew.queue.finish(name, [finished(task) for task in claim.tasks])
                    ends.update(task.id for task, how in zip(claim.tasks, answers, strict=True) if how == "applied")

    async def lives(place: int) -> None:
        for count in itertools.count():
            if len(ends) == total:
                return
            with suppress(Fenced):  # a busy machine let its lease run out, and others have its tasks
                await life(f"w{place}-{count}")

    async def watch() -> None:
        while len(ends) < total:
            held = map(packed.Holder.unpack, await crew.client.hvals(crew.keys.holders))
            running = Counter(one.agent for one in held if not one.incarnation.startswith(LIMITED))
            seen.update(running - seen)
            await asyncio.sleep(0.001)

    async with asyncio.timeout(180):
        await asyncio.gather(watch(), *(lives(place) for place in range(6)))
    assert {name: seen[name] for name in most} == most
    assert set(ends.values()) == {1}
    await crew.assert_idle()
    meta = await crew.client.hgetall(crew.keys.meta)
    assert {name: meta[f"held:{name}"] for name in most} == dict.fromkeys(most, "0")
