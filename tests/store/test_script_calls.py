"""Calls of the store's scripts: what is sent, and which commands a user needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import pytest
import redis
import redis.asyncio
from support import LEASE_MS, MANY, Crew, finished, flow_of, library, opened, server_ms
from test_scripts import SCRIPTS

from waiting import until
from watchbill import connection
from watchbill.api import Heartbeat
from watchbill.api.budgets import Budget
from watchbill.api.delivery import Destination
from watchbill.api.limits import ModelLimit
from watchbill.api.watches import Watch
from watchbill.connection import scripts
from watchbill.errors import Fenced
from watchbill.plan.batches import Batch as PlannedBatch
from watchbill.plan.batches import Group
from watchbill.plan.budget import NEVER_MS, Amount, Limit, Span
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.plan.limits import of_model
from watchbill.plan.scaling import Scaling
from watchbill.records import TaskPolicy
from watchbill.store import (
    approvals,
    batches,
    budgets,
    checkpoints,
    circuits,
    control,
    dead,
    definitions,
    delegations,
    figures,
    fired,
    firing,
    heartbeats,
    help_requests,
    ingress,
    retention,
    run_steps,
    runs,
    scaling,
    service_heartbeats,
    sessions,
    suspension,
    watches,
    why,
    workers,
)
from watchbill.store.packed import Batched
from watchbill.tasks import RunState


async def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        await crew.client.script_flush()
        assert [t.id for t in await crew.take("w")] == ["t1"]
        sync = connection.connect_sync(crew.url)
        await crew.client.script_flush()
        await asyncio.to_thread(crew.queue.renew, sync, "w", 1000, "{}")
        sync.close()
        assert await crew.client.hlen(crew.keys.workers) == 1


async def test_scripts_touch_only_the_keys_that_were_declared(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself checks it: the user that runs a script may see the script's keys and no other."""
    server = await private_redis()
    url: str = server.url
    async with opened(url, crew_name) as crew:
        probe = connection.connect(url.replace("unix://", "unix://probe:x@"))
        plain = scripts.run
        ran: set[str] = set()

        async def guarded(
            client: redis.asyncio.Redis, name: str, keys: Sequence[str], args: list[object], *sent: Callable[[], None]
        ) -> object:
            ran.add(name)
            patterns = [f"~{key}" for key in dict.fromkeys(keys)]
            await crew.client.execute_command(
                "ACL", "SETUSER", "probe", "reset", "on", ">x", "+@all", "allchannels", *patterns
            )
            return await plain(probe, name, keys, args, *sent)

        with monkeypatch.context() as patch:
            patch.setattr(scripts, "run", guarded)
            await guarded(crew.client, "leave", crew.keys.fixed, [crew.uid, "nobody"])
            with pytest.raises(redis.ResponseError, match=r"No permissions|can't access"):  # the guard works
                await probe.eval("return redis.call('HGET', KEYS[1] .. 'x', 'uid')", 1, crew.keys.meta)
            await _everything_workers_do(crew)
            await _a_run_that_grows(crew)
            await _everything_people_do(crew)
            await crew.assert_idle()
            await control.call(crew.client, crew.keys, "close", crew.keys.fixed, [crew.uid])
            await definitions.delete(crew.client, crew.keys, crew.uid)
        await probe.aclose()
    left = {"renew": "a thread calls it; it has the fixed keys only", "sweep": "it declares no keys, and only reads"}
    assert ran | {*left} == set(SCRIPTS)


async def _everything_workers_do(crew: Crew) -> None:
    await crew.submit("t1", "t2", "ghost", dedupe_key="k", dedupe_ms=1000, inputs={"x": "1"})
    await crew.submit("t2", "ghost")
    await crew.submit("later", due_ms=1)
    await crew.submit("later-still", due_ms=await server_ms(crew.client) + 100)
    await crew.queue.move_due()
    await crew.run("r1", flow_of([("a", "b"), ("b", "c"), ("d", "e")]), parallel=1, dedupe_key="l", dedupe_ms=1000)
    await crew.run("r2", flow_of([("x", "y")]))
    told = Scaling(at="", mode="Auto", why="hold", wanted=1, replicas=1)
    await scaling.keep(crew.client, crew.keys, crew.uid, told)
    assert await scaling.last(crew.client, crew.keys) == told
    await crew.client.delete(crew.keys.task("ghost"))
    await crew.client.xadd(crew.keys.streams[0], {"bad": "entry"})
    ops = Destination.model_validate({"name": "ops", "log": {}})
    failure = circuits.Failure("no-delivery", 1, "it broke", counts=True)
    await circuits.record_failure(crew.client, crew.keys, crew.uid, ops, failure)
    await circuits.enter(crew.client, crew.keys, crew.uid, ops, 1000)
    await circuits.record_success(crew.client, crew.keys, crew.uid, ops)
    await circuits.defer(crew.client, crew.keys, crew.uid, "to:ops", due_ms=1, before_ms=1)
    for url in ("https://a.example", "https://b.example"):
        hook = Destination.model_validate({"name": "hook", "webhook": {"url": url}})
        await definitions.apply(
            crew.client, crew.keys, crew.definition.model_copy(update={"delivery": [hook]}), uid=crew.uid
        )
    agents = [agent.model_copy(update={"max_concurrent": 500, "roles": ["r"]}) for agent in crew.definition.agents]
    crew.definition = crew.definition.model_copy(update={"agents": agents})
    await definitions.apply(crew.client, crew.keys, crew.definition, uid=crew.uid)
    crew.queue.role_feeds.take_up(crew.definition, crew.definition.digest())
    await crew.submit("for-a-role", agent="role:r")
    await ingress.refuse(crew.client, crew.keys, crew.uid, ingress.Entry("1-0", {"what": "?"}), "no task")
    assert await help_requests.ask(crew.client, crew.keys, crew.uid)
    await crew.queue.enter("entering", ["a", "b"], lease_ms=LEASE_MS)
    await crew.queue.leave("entering")
    for i in range(300):
        if i > 20 and not await crew.queued() and not await crew.client.zcard(crew.keys.delayed):
            break
        if i % 2:
            tasks = (await crew.queue.claim(f"w{i}", 1, 3, begin=2, lease_ms=LEASE_MS, take_over=True)).tasks
            await crew.queue.finish(f"w{i}", [], begun=tasks, announced=tasks)
        else:
            tasks = await crew.take(f"w{i}", 1, 3)
        for task in tasks:
            await crew.queue.say(f"w{i}", task, "hello", 1)
            with suppress(Fenced):  # it has no record
                await checkpoints.store(crew.queue, f"w{i}", task, 1, "s#1", '"x"')
                await checkpoints.stored(crew.queue, f"w{i}", task)
            await sessions.add(crew.queue, f"w{i}", task, "s", ("hi", "hello"), ttl_ms=LEASE_MS)
            await sessions.before(crew.client, crew.keys, task.agent, "s")
        if i == 4:
            await crew.queue.park(f"w{i}", tasks, "not in this image")
            await crew.queue.unpark([m for members in (await crew.queue.parked_agents()).values() for m in members])
        if i % 3 == 0:
            await crew.queue.hand_back(f"w{i}", tasks)
        elif i % 3 == 1:
            await crew.queue.declare_dead([f"w{i}"])
        else:
            await crew.queue.finish(f"w{i}", [finished(t, "retry", ttl_ms=1) for t in tasks[:1] if i < 20])
            await crew.finish(f"w{i}", tasks, "dead" if any(t.id == "ghost" for t in tasks) else "completed")
            await crew.queue.leave(f"w{i}")


async def _a_run_that_grows(crew: Crew) -> None:
    """A run whose step adds others to it, which the run of another crew's flow ends."""
    await crew.run("r4", flow_of([("list@each", "list")]))
    (task,) = await crew.take("grower")
    held = run_steps.Held(crew.keys, crew.uid, task.id, int(task.fence))
    assert await run_steps.add_items(crew.client, held, "list", "a", ["x", {"y": 1}], lenient=True, room=MANY)
    assert await run_steps.item(crew.client, crew.keys, "r4", "list@2") == {"y": 1}
    await crew.finish("grower", [task])
    number = 1
    while tasks := await crew.take("grower", number := number + 1):
        await crew.finish("grower", tasks)
    assert (await runs.status(crew.client, crew.keys, "r4")).status is RunState.COMPLETED
    await crew.queue.leave("grower")


async def _everything_people_do(crew: Crew) -> None:
    of_crew = (crew.client, crew.keys, crew.uid)
    await dead.purge(*of_crew, [letter.id async for letter in dead.letters(crew.client, crew.keys)])
    await crew.submit("t3", "t4", "t5")
    await crew.run("r3", flow_of([("a", "b"), ("c", "d")]), parallel=1)
    for task in ("t3", "r3/a"):
        assert await control.interrupt(*of_crew, task, "wait")
        assert await control.resume(*of_crew, task)
    assert await control.cancel(*of_crew, "t4", "no more", LEASE_MS)
    await _approvals(crew)
    await _delegations(crew)
    assert await control.cancel(*of_crew, "r3/c", "no more", LEASE_MS)
    assert await runs.subscribe(crew.client, crew.keys, "r3", "nobody")
    tasks = await crew.take("p1")
    assert sorted(task.id for task in tasks) == ["r3/a", "t3", "t5"]
    assert not await control.cancel(*of_crew, "t5", "no more", LEASE_MS)
    assert await crew.finish("p1", tasks, "dead") == ["applied"] * 3
    letters = [letter async for letter in dead.letters(crew.client, crew.keys)]
    replayed = await dead.replay(*of_crew, letters, max_queued=MANY)
    assert [one.outcome for one in replayed] == ["replayed"] * 3
    assert await control.cancel_all(*of_crew, None, "enough", LEASE_MS) == control.CancelledAll(3, 0)
    await crew.queue.recover([finished(tasks[0])], "another time")
    await crew.queue.leave("p1")
    await _spending(crew)
    await _batches(crew)
    await _heartbeats(crew)
    await _watches(crew)
    assert await control.drain(*of_crew, "host", on=True)
    await crew.claim("silent", lease_ms=1)
    assert await suspension.suspend(*of_crew, on=True)
    await until(lambda: suspension.silent(crew.client, crew.keys))
    assert await suspension.return_dead(*of_crew, ["silent"]) == 0
    assert await suspension.suspend(*of_crew, on=False)
    assert [await suspension.close(*of_crew, on=on) for on in (True, True, False, False)] == [True, False, True, False]
    assert await workers.workers(*of_crew)
    await definitions.record_loaded(*of_crew, crew.definition.digest())
    await definitions.record_loss(*of_crew, "another time")
    await figures.figures(crew.client, crew.keys)
    await why.seen(crew.client, crew.keys, "r3/a")
    current = await definitions.current(crew.client, crew.keys)
    bounds = current.definition.model_copy(update={"tasks": TaskPolicy(max_results=1)})
    assert await retention.trim(*of_crew, replace(current, content=bounds.content()))


async def _approvals(crew: Crew) -> None:
    """Whatever was taken with what waits for approval goes back."""
    await crew.submit("asks")
    await crew.run("asking", flow_of([("a", "b"), ("c", "d")]), parallel=1)
    verdicts: tuple[approvals.Verdict, ...] = ("approved", "rejected")
    for number, verdict in enumerate(verdicts, 1):
        tasks = {task.id: task for task in await crew.take("p0", number)}
        asking = [tasks.pop(task_id) for task_id in ("asks", "asking/a")]
        await crew.finish("p0", asking, "approval", detail=f"to {verdict}", message="asks", ttl_ms=LEASE_MS)
        for task in asking:
            assert await control.interrupt(crew.client, crew.keys, crew.uid, task.id, "wait")
            assert await control.resume(crew.client, crew.keys, crew.uid, task.id)
            assert await approvals.decide(crew.client, crew.keys, crew.uid, task.id, verdict, "why")
        await crew.queue.hand_back("p0", list(tasks.values()))
    for work in ("asks", "asking"):
        assert await control.cancel(crew.client, crew.keys, crew.uid, work, "no more", LEASE_MS)
    await crew.queue.leave("p0")


async def _watches(crew: Crew) -> None:
    of = [
        Watch.model_validate({"name": name, "events": ["task_failed"], "agent": agent, "prompt": "x"})
        for name, agent in (("task", "a"), ("run", None))
    ]
    await definitions.apply(crew.client, crew.keys, library("a", watches=of))
    current = await definitions.current(crew.client, crew.keys)
    await crew.submit("breaks")
    tasks = await crew.take("watcher")
    await crew.finish("watcher", tasks, "failed")
    [(event_id, event)] = (await watches.look(crew.client, crew.keys, current)).events
    call = (crew.client, crew.keys, current)
    assert [await watches.fire(*call, one, event_id, event, ()) for one in of] == ["fired"] * 2
    assert await watches.tell(*call, of[0], event_id, "why") == "already"
    for made in of:
        await control.cancel(crew.client, crew.keys, crew.uid, f"watch-{made.name}-{event_id}", "no more", LEASE_MS)
    await crew.queue.leave("watcher")
    await definitions.apply(crew.client, crew.keys, crew.definition)


async def _spending(crew: Crew) -> None:
    of_crew = (crew.client, crew.keys, crew.uid)
    await crew.submit("dear")
    (dear,) = await crew.take("p2")
    await crew.queue.finish("p2", [finished(dear, "later", ttl_ms=60_000, message="no room")])
    most = Budget.model_validate({"name": "all", "tokens": 10})
    limits = [Limit(most, "", Span(0, NEVER_MS))]
    rate = of_model([ModelLimit(model="m", requests=1, tokens=9)], "m")
    key = crew.keys.task("dear")
    request = budgets.Request("a", "m", key, Amount(5), limits, crew.keys.reserved(0), rate=rate, turn="turn:m")
    digest = (await definitions.current(crew.client, crew.keys)).digest
    assert await budgets.reserve(*of_crew, digest, request) == budgets.Reserved(0)
    await budgets.settle(*of_crew, [budgets.Settlement(request, Amount(1))])
    assert await budgets.release(*of_crew) == 1
    assert await crew.finish("p2", await crew.take("p2", 2)) == ["applied"]
    await crew.queue.leave("p2")


async def _batches(crew: Crew) -> None:
    """A task and a step have requests, which go with one batch; that of a third task is withdrawn."""
    await crew.submit("asked", "withdrawn")
    await crew.run("asking-run", flow_of([("a", "b")]))
    tasks = {task.id: task for task in await crew.take("p4")}
    group = Group("m", None, "shared", max_requests=2)
    own = {one: Batched("waiting", f"id-{i}", "turn 1", "m", NEVER_MS) for i, one in enumerate(tasks)}
    for one, task in tasks.items():
        for _ in range(2):
            await batches.gather(crew.queue, "p4", task, own[one], f"{one}:1:1", "{}", group, 5)
    left = tasks.pop("withdrawn")
    assert [await batches.leave(crew.queue, "p4", left, own[left.id]) for _ in range(2)] == ["withdrawn:1:1"] * 2
    await crew.finish("p4", [left])
    sender = batches.Sender(crew.client, crew.keys, crew.uid, "p4", LEASE_MS)
    assert await batches.hold(sender)
    assert not await batches.hold(replace(sender, who="another"))
    found = await batches.gathered(crew.client, crew.keys, group)
    batch = PlannedBatch("b1", group)
    await batches.mark(sender, batch)
    assert set((await batches.seal(sender, batch, found)).values()) == {"held"}  # they are yet to be set aside
    await crew.queue.hand_back("p4", [tasks.pop("asked")])  # it has yet to begin, as those that wait for limits
    assert not await batches.any_runs(
        crew.client, crew.keys, {i: one for i, one in found.items() if one.task_id == "asked"}
    )
    assert await batches.any_runs(crew.client, crew.keys, found)
    later = [finished(task, "later", ttl_ms=-NEVER_MS, message="waits") for task in tasks.values()]
    await crew.queue.finish("p4", later)
    assert set((await batches.seal(sender, batch, found)).values()) == {"sealed"}
    assert await batches.bodies(crew.client, crew.keys, list(found)) == ["{}"] * 2
    steps: tuple[Literal["sent", "answered"], ...] = ("sent", "answered", "answered")
    said = [await batches.tell(sender, what, found, dict.fromkeys(found, what)) for what in steps]
    assert [set(one.values()) for one in said] == [{"ok"}, {"ok"}, {"over"}]
    await batches.mark(sender, batch, is_over=True)
    assert not await batches.is_used(crew.client, crew.keys)
    await batches.release(sender)
    again = await crew.take("p4", 2)
    assert {task.id for task in again} == {"asked", "asking-run/a"}
    assert await batches.of_task(crew.client, crew.keys, "asked") == (
        own["asked"]._replace(state="answered"),
        "answered",
    )
    await crew.finish("p4", again)
    assert await control.cancel(crew.client, crew.keys, crew.uid, "asking-run", "no more", LEASE_MS)
    await crew.queue.leave("p4")


async def _delegations(crew: Crew) -> None:
    """A step has another one work for it, which approves of an agent's work."""
    await crew.run("team", flow_of([("a", "b"), ("c", "d")]), parallel=3)
    tasks = {task.id: task for task in await crew.take("p3")}
    lead, work = tasks.pop("team/a"), Delegated("a:1", "e", Asked("do it"), scope="all of it")
    for _ in range(2):
        assert await delegations.delegate(crew.queue, "p3", lead, work, "do it") == (work.asked.pack(), None)
    assert await delegations.asked(crew.client, crew.keys, "team", "a:1") == work.asked
    await crew.finish("p3", [lead], "members", detail="a:1")
    (member,) = await crew.take("p3", 2)
    assert await crew.finish("p3", [member], detail="a") == ["applied"]
    (lead,) = await crew.take("p3", 3)
    assert (lead.id, lead.attempt) == ("team/a", 1)
    found = await delegations.delegate(crew.queue, "p3", lead, work, "do it")
    assert found is not None
    assert found[1] is not None
    await crew.queue.hand_back("p3", [lead, *tasks.values()])
    assert await control.cancel(crew.client, crew.keys, crew.uid, "team", "no more", LEASE_MS)
    await crew.queue.leave("p3")


async def _heartbeats(crew: Crew) -> None:
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    for agent in ("a", None):
        spec = {"crewRef": {"name": "test"}, "schedule": "* * * * *", "prompt": "look", "agent": agent}
        beat = Heartbeat.model_validate({"metadata": {"name": "hb"}, "spec": spec})
        state = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=noon)
        assert (await firing.run_now(crew.client, crew.keys, "hb", agent or "all", now=noon))[1]
        slots = {"first": state.next or noon, "following": noon + timedelta(minutes=9)}
        assert await heartbeats.miss(crew.client, crew.keys, state, **slots, count=8, message="missed")
        await control.cancel_all(crew.client, crew.keys, crew.uid, None, "enough", LEASE_MS)
        kept_none = Heartbeat.model_validate(
            {"metadata": {"name": "hb"}, "spec": {**spec, "failedRunsHistoryLimit": 0}}
        )
        state = await heartbeats.apply(crew.client, crew.keys, crew.uid, kept_none, now=noon)
        assert await fired.trim(crew.client, crew.keys, state) == 1
    await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
    await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=noon)
    fires = partial(service_heartbeats.fires, crew.client, crew.keys, crew.uid, holds=timedelta(minutes=1))
    assert await fires("s", ["hb"]) == (False, [])
    assert await fires("s", []) == (True, ["hb"])
    await service_heartbeats.fires_none(crew.client, crew.keys, crew.uid, "s")
