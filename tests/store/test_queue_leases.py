"""Leases of workers, and what is taken over when they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from queue_calls import every_call
from support import LEASE_MS, MANY, SHORT_MS, Crew, finished, library, payload, server_ms

from waiting import until
from watchbill import connection
from watchbill.errors import DefinitionChanged, Fenced
from watchbill.records import ExecutionMode
from watchbill.store import definitions
from watchbill.store.queue import Claimed
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority


async def _fall_silent(crew: Crew, incarnation: str, number: int, slots: int) -> tuple[Claimed, ...]:
    """Takes tasks under a short lease and lets it run out."""
    tasks = await crew.take(incarnation, number, slots, lease_ms=SHORT_MS)

    async def expired() -> bool:
        score = await crew.client.zscore(crew.keys.leases, incarnation)
        return score is not None and score < await server_ms(crew.client)

    await until(expired)
    return tasks


async def test_what_a_silent_worker_held_is_given_to_another_in_the_order_of_classes(crew: Crew) -> None:
    await crew.submit("n1", "n2", priority=Priority.NORMAL)
    await crew.submit("l1", priority=Priority.LOW)
    await crew.submit("h1", priority=Priority.HIGH)
    held = {t.id: t for t in await _fall_silent(crew, "gone", 1, 4)}
    assert len(held) == 4
    await crew.submit("n3", priority=Priority.NORMAL)
    await crew.submit("c1", priority=Priority.CRITICAL)
    taken = await crew.claim("next")
    assert [t.id for t in taken] == ["c1", "h1", "n1", "n2", "n3", "l1"]
    for task in taken:
        assert task.taken_over == (task.id in held)
        if task.id in held:
            assert int(task.fence) > int(held[task.id].fence)
            assert task.entry == held[task.id].entry
            assert task.attempt == 2
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "4"}  # as before: nothing started, nothing ended
    await crew.queue.start("next", taken)
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "6"}
    await crew.finish("next", taken)
    await crew.assert_idle()
    assert "gone" not in await crew.consumers()


async def test_only_an_attempt_that_was_started_counts(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.claim("w1")
    await crew.queue.start("w1", tasks[:1])
    for before, after, attempts in (("w1", "w2", [2, 1]), ("w2", "w3", [2, 1])):
        await crew.queue.declare_dead([before])
        tasks = await crew.claim(after)
        assert [t.attempt for t in tasks] == attempts
    await crew.queue.start("w3", tasks)
    await crew.queue.declare_dead(["w3"])
    assert [t.attempt for t in await crew.take("w4")] == [3, 2]
    assert (await crew.task("t1"))["attempt"] == "3"


async def test_what_a_claim_begins_and_a_finish_begins_counts_and_what_is_only_held_does_not(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3", "t4")
    claim = await crew.queue.claim("w1", 1, 4, begin=1, lease_ms=LEASE_MS, take_over=True)
    assert [(t.id, t.begun, t.payload) for t in claim.tasks] == [
        (f"t{i}", i == 1, payload(f"t{i}")) for i in range(1, 5)
    ]
    assert {t.definition for t in claim.tasks} == {crew.definition.digest()}
    for _ in range(2):
        await crew.queue.finish("w1", [], begun=claim.tasks[1:2])
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "2"}
    await crew.queue.declare_dead(["w1"])
    again = await crew.claim("w2", 1, 4)
    assert {t.id: t.attempt for t in again} == {"t1": 2, "t2": 2, "t3": 1, "t4": 1}
    with pytest.raises(Fenced):
        await crew.queue.finish("w1", [], begun=claim.tasks[2:])
    await crew.finish("w2", again)
    await crew.assert_idle()


async def test_what_begins_and_ends_in_one_call_is_told_of_once_and_in_order(crew: Crew) -> None:
    await crew.submit("t1")
    claim = await crew.queue.claim("w", 1, 1, begin=1, lease_ms=LEASE_MS, take_over=True)
    assert await crew.events() == []
    for _ in range(2):
        await crew.finish("w", claim.tasks)
    assert [e["event_type"] for e in await crew.events()] == ["task_assigned", "task_completed"]
    await crew.assert_idle()


async def test_a_task_that_still_runs_is_told_of_once_and_its_state_is_seen(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.run("r1", library("b", mode=ExecutionMode.SEQUENTIAL))
    claim = await crew.queue.claim("w", 1, 2, begin=2, lease_ms=LEASE_MS, take_over=True)
    assert [t.begun for t in claim.tasks] == [True, True]
    for _ in range(2):
        await crew.queue.finish("w", [], announced=claim.tasks)
    assert await crew.state("t1") == "running"
    assert await crew.step_states("r1") == {"b": "running"}
    told = [(e["event_type"], e.get("agent_id")) for e in await crew.events()]
    assert told.count(("task_assigned", "a")) == told.count(("task_assigned", "b")) == 1
    assert told.count(("agent_state_changed", "a")) == 1
    await crew.finish("w", claim.tasks)
    assert [e["event_type"] for e in await crew.events(crew.keys.agent_events("a"))] == [
        "agent_state_changed",
        "task_assigned",
        "task_completed",
        "agent_state_changed",
    ]
    await crew.assert_idle()


async def test_a_large_payload_stays_in_the_record_and_is_given_when_the_task_begins(crew: Crew) -> None:
    large = payload("x" * 5000)
    await crew.submit_all([Submission("t1", "a", large)], max_queued=MANY)
    (task,) = (await crew.queue.claim("w", 1, 1, begin=1, lease_ms=LEASE_MS, take_over=True)).tasks
    assert (task.begun, task.payload) == (False, "")
    (started,) = await crew.queue.start("w", [task])
    assert started.payload == large


async def test_a_claim_behind_the_bell_begins_what_comes(crew: Crew) -> None:
    waiting = asyncio.create_task(
        crew.queue.claim_at_bell("w", 1, 3, lease_ms=LEASE_MS, take_over=True, timeout_seconds=60)
    )
    await asyncio.sleep(0.05)
    await crew.submit("t1")
    claim, unheard = await waiting
    assert unheard is None
    assert [(t.id, t.begun) for t in claim.tasks] == [("t1", True)]
    again = await crew.queue.claim(
        "w", 1, 0, lease_ms=LEASE_MS, take_over=True
    )  # its number, as when its reply is lost
    assert again.tasks == claim.tasks
    claim, _ = await crew.queue.claim_at_bell("w", 2, 3, lease_ms=LEASE_MS, take_over=True, timeout_seconds=0.05)
    assert claim.tasks == ()


async def test_a_submitter_with_an_old_definition_is_told_and_nothing_is_stored(crew: Crew) -> None:
    old = crew.definition.digest()
    await crew.submit_all([Submission("t1", "a", payload("t1"))], max_queued=MANY, digest=old)
    await definitions.apply(crew.client, crew.keys, library("b"))
    before = await crew.dump()
    with pytest.raises(DefinitionChanged):
        await crew.submit_all([Submission("t2", "a", payload("t2"))], max_queued=MANY, digest=old)
    assert await crew.dump() == before


async def test_a_worker_taken_for_dead_can_change_nothing(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.run("r1")
    old = await _fall_silent(crew, "zombie", 1, 3)
    new = await crew.take("next", 1, 9)
    assert {t.id for t in new} > {t.id for t in old}
    before = await crew.dump()
    assert set(await every_call(crew, crew.queue, old, "zombie")) == {"Fenced"}
    assert await crew.dump() == before
    assert await crew.finish("next", new) == ["applied"] * 4
    before = await crew.dump()
    assert set(await every_call(crew, crew.queue, old, "zombie")) == {"Fenced"}
    assert await crew.dump() == before
    await crew.assert_idle()


async def test_a_worker_taken_for_dead_may_leave_and_no_task_is_lost(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await _fall_silent(crew, "zombie", 1, 2)
    assert len(await crew.take("next", 1, 1)) == 1
    await crew.queue.leave("zombie")
    assert len(await crew.take("next", 2, 1)) == 1
    assert await crew.pending() == 2


async def test_a_claimer_with_few_slots_leaves_the_rest_to_others_and_no_entry_is_destroyed(crew: Crew) -> None:
    ids = {f"t{i}" for i in range(7)}
    await crew.submit(*sorted(ids))
    await crew.take("gone", 1, 7)
    await crew.queue.declare_dead(["gone"])
    await crew.client.delete(crew.keys.bell)
    taken: list[str] = []
    for i, slots in enumerate((2, 3, 1, 5)):
        taken += [t.id for t in await crew.claim(f"w{i}", 1, slots)]
        assert await crew.pending() == 7
        assert ("gone" in await crew.consumers()) == (len(taken) < 7)
        assert await crew.client.llen(crew.keys.bell) == (len(taken) < 7)
        await crew.client.delete(crew.keys.bell)
    assert sorted(taken) == sorted(ids)
    assert await crew.client.zscore(crew.keys.leases, "gone") is None


async def test_many_dead_workers_are_all_replaced(crew: Crew) -> None:
    ids = {f"t{i}" for i in range(20)}
    await crew.submit(*ids)
    names = [f"gone{i}" for i in range(20)]
    for name in names:
        await crew.take(name, 1, 1)
    await crew.queue.declare_dead(names)
    taken: set[str] = set()
    for number in range(1, 6):
        taken |= {t.id for t in await crew.claim("w", number, 20)}
    assert taken == ids
    assert await crew.pending() == 20
    assert await crew.consumers() == {"w"}
    assert await crew.queue.incarnations() == ["w"]


async def test_an_urgent_task_of_the_ninth_dead_worker_comes_before_new_less_urgent_ones(crew: Crew) -> None:
    await crew.submit(*(f"l{i}" for i in range(8)), priority=Priority.LOW)
    for i in range(8):
        await crew.take(f"dead{i}", 1, 1)
    await crew.submit("urgent", priority=Priority.CRITICAL)
    await crew.take("dead9", 1, 1)
    await crew.queue.declare_dead([*(f"dead{i}" for i in range(8)), "dead9"])
    await crew.submit(*(f"h{i}" for i in range(8)), priority=Priority.HIGH)
    picked = [t.id for number in range(1, 5) for t in await crew.claim("w", number, 1)]
    assert "urgent" in picked


async def test_the_bell_is_rung_while_any_dead_worker_still_holds_something(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("z-last", 1, 1)
    for i in range(9):
        await crew.claim(f"dead{i}", 1, 1)
    await crew.queue.declare_dead([*(f"dead{i}" for i in range(9)), "z-last"])
    await crew.client.delete(crew.keys.bell)
    claim = await crew.queue.claim("w", 1, 1, lease_ms=LEASE_MS, take_over=True)
    assert claim.tasks or await crew.client.llen(crew.keys.bell) == 1


async def test_a_worker_that_may_not_take_over_leaves_expired_leases_alone(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await _fall_silent(crew, "slow", 1, 1)
    assert await crew.claim("cautious", 1, 5, take_over=False) == ()
    assert await crew.finish("slow", [task]) == ["applied"]  # its lease is over, but nobody has fenced it


# The store stood still, all were suspended, or its clock went forward: whoever is back first must not end the others.
@pytest.mark.parametrize("how", ["claim", "finish", "renew"])
async def test_a_worker_whose_own_lease_ran_out_leaves_others_the_time_to_renew_theirs(crew: Crew, how: str) -> None:
    await crew.submit("t1", "t2")
    (mine,), (theirs,) = await crew.take("w1", 1, 1), await crew.take("w2", 1, 1)
    now = await server_ms(crew.client)
    await crew.client.zadd(crew.keys.leases, {"w1": now - 50_000, "w2": now - 50_000})
    if how == "claim":
        assert await crew.claim("w1", 2) == ()
    elif how == "finish":
        options: Any = {"number": 2, "slots": 1, "lease_ms": LEASE_MS, "take_over": True}
        assert (await crew.queue.finish("w1", [finished(mine)], **options))[1].tasks == ()  # type: ignore[union-attr]
    else:
        with connection.connect_sync(crew.url) as sync:
            crew.queue.renew(sync, "w1", LEASE_MS, "{}")
    assert await crew.claim("w1", 3) == ()
    lease = await crew.client.zscore(crew.keys.leases, "w2")
    assert now < lease <= await server_ms(crew.client) + LEASE_MS / 3
    assert await crew.finish("w2", [theirs]) == ["applied"]


@pytest.mark.parametrize("how", ["claim", "renew"])
@pytest.mark.parametrize("left", ["less than a third", "more than a third"])
async def test_a_worker_with_less_than_a_third_of_its_lease_left_gives_others_time(
    crew: Crew, left: str, how: str
) -> None:
    for name in ("w1", "w2"):
        await crew.claim(name, 1, 0)
    now, third = await server_ms(crew.client), LEASE_MS // 3
    rest = third // 2 if left == "less than a third" else 2 * third
    await crew.client.zadd(crew.keys.leases, {"w1": now + rest, "w2": now - 1})
    if how == "claim":
        await crew.claim("w1", 2, 0)
    else:
        with connection.connect_sync(crew.url) as sync:
            crew.queue.renew(sync, "w1", LEASE_MS, "{}")
    lease = await crew.client.zscore(crew.keys.leases, "w2")
    assert lease >= now + third if left == "less than a third" else lease < now


async def test_whoever_does_not_renew_in_that_time_is_replaced(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.claim("w1", 1, 0)
    await crew.take("w2", 1)
    past = await server_ms(crew.client) - 50_000
    await crew.client.zadd(crew.keys.leases, {"w1": past, "w2": past})
    assert await crew.claim("w1", 2, lease_ms=300) == ()

    number = 2

    async def replaced() -> bool:
        nonlocal number
        number += 1
        return [t.id for t in await crew.claim("w1", number, lease_ms=300)] == ["t1"]

    await until(replaced)


async def test_a_worker_declared_dead_is_replaced_at_once_whatever_its_lease(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("gone", 1, 1, lease_ms=LEASE_MS)
    assert await crew.claim("w", 1) == ()
    await crew.queue.declare_dead(["gone", "never heard of"])
    assert await crew.queue.incarnations() == ["gone", "w"]
    assert [t.id for t in await crew.claim("w", 2, take_over=False)] == ["t1"]
    with pytest.raises(Fenced):
        await crew.claim("gone", 2)


async def test_a_lease_that_is_renewed_is_not_taken_over(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w", 1, 1, lease_ms=1)
    sync = connection.connect_sync(crew.url)
    try:
        await asyncio.to_thread(crew.queue.renew, sync, "w", LEASE_MS, '{"running":1}')
    finally:
        sync.close()
    assert await crew.client.hgetall(crew.keys.workers) == {"w": '{"running":1}'}
    assert await crew.claim("other") == ()
    assert await crew.finish("w", [task]) == ["applied"]


async def test_a_worker_that_leaves_is_forgotten_and_what_it_held_is_free_at_once(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.take("w", 1)
    await crew.finish("w", tasks[:1])
    await crew.queue.leave("w")
    await crew.queue.leave("w")
    assert await crew.client.llen(crew.keys.bell) == 1
    assert [t.id for t in await crew.claim("next", take_over=False)] == ["t2"]
    assert await crew.queue.incarnations() == ["next"]
    assert await crew.consumers() == {"next"}
    with pytest.raises(Fenced):
        await crew.claim("w", 2)
    with pytest.raises(Fenced):
        await crew.claim("w", 1)


async def test_a_worker_that_leaves_when_it_had_heard_the_bell_rings_it_for_others(crew: Crew) -> None:
    await crew.claim("w")
    await crew.submit("t1")
    assert await crew.bell()
    await crew.claim("w", 2, slots=0)
    await crew.queue.leave("w")
    assert await crew.bell()


# Else a crew whose workers come and go remembers each of them for ever.
async def test_who_left_is_forgotten_after_a_day_though_others_leave_meanwhile(crew: Crew) -> None:
    for name in ("w1", "w2", "w3"):
        await crew.client.zadd(crew.keys.fenced, {"w1": 1}, xx=True)
        await crew.claim(name)
        await crew.queue.leave(name)
    assert await crew.client.zrange(crew.keys.fenced, 0, -1) == ["w2", "w3"]
    assert 0 < await crew.client.ttl(crew.keys.fenced) <= 86_400
    with pytest.raises(Fenced):
        await crew.claim("w2", 2)


async def test_an_idle_worker_that_leaves_leaves_nothing(crew: Crew) -> None:
    await crew.claim("w")
    await crew.queue.leave("w")
    assert await crew.queue.incarnations() == []
    assert await crew.client.exists(crew.keys.claims, crew.keys.workers, crew.keys.leases) == 0
