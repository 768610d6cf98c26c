"""The store goes, loses everything, and comes back; and what an operator stored is found by no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import OPERATOR, RARELY, SOON, Team, crew, heartbeat
from watchbill import connection
from watchbill.controller.statuses import PER_SECOND, SHARED_SECONDS
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_what_a_flushed_store_lost_comes_back_by_resync(team: Team) -> None:
    team.operator(resync_seconds="1")
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready()
    machine.until(lambda: any(":heartbeat:" in k for k in team.stored()), within=SOON, what="the heartbeat is stored")
    before, uid = team.stored(), team.meta()["uid"]

    team.store.client.flushall()

    machine.until(lambda: team.stored() >= before, within=SOON, what="all keys are back")
    assert team.meta()["uid"] == uid
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="it takes work")


def _losses(team: Team, name: str = "echo") -> int:
    """Returns how often the crew's feed tells that the store has lost all."""
    feed: Any = team.store.client.xrange(CrewKeys(team.namespace, name).events)
    return sum("the store lost all it had of this crew" in entry["data"] for _, entry in feed)


def test_a_flush_is_told_once_on_the_feed_of_each_crew_with_or_without_workers_or_an_operator_to_see_it(
    team: Team,
) -> None:
    running = team.operator(resync_seconds="1")
    team.apply(crew("idle"), crew())
    team.until_ready("idle", "echo")
    hold(3, lambda: _losses(team) == _losses(team, "idle") == 0, "nothing was lost")
    names = ("idle", "echo")
    with team.worker("echo").start() as worker:
        leases = CrewKeys(team.namespace, "echo").leases
        machine.until(lambda: team.store.client.zcard(leases), within=SOON, what="a worker")
        for loss in ("seen", "unseen"):
            if loss == "unseen":
                running.kill()
            for name in names:
                team.submit(name, agent="a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
            team.store.client.flushall()
            if loss == "unseen":
                running.start()
            machine.until(lambda: all(_losses(team, name) for name in names), within=SOON, what="it is told")
            machine.until(lambda: team.store.client.zcard(leases), within=SOON, what="the worker goes on")
            hold(3, lambda: [_losses(team, name) for name in names] == [1, 1], "it is told once")
        assert worker.exit_code() is None
    team.apply(crew("new"))
    team.until_ready("new")
    assert _losses(team, "new") == 0


def test_work_that_comes_right_after_the_store_is_back_is_heard(team: Team) -> None:
    team.operator()
    team.apply(crew())
    team.until_ready()
    team.store.kill()
    machine.until(lambda: True, within=1, what="")
    team.store.start()
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")


def test_while_the_store_is_away_workers_are_held_and_then_all_goes_on(team: Team) -> None:
    running = team.operator()
    team.apply(crew(idleSeconds=2), crew("external", scaling={"mode": "External"}, replicas=2))
    team.until_ready("echo", "external")
    team.submit(count=15)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers")

    team.store.kill()
    machine.until(
        lambda: team.conditions()["Ready"][:2] == ("False", "StoreUnavailable"), within=SOON, what="it says so"
    )
    assert "held as they are" in team.conditions()["Ready"][2]
    hold(4, lambda: team.replicas() == 2, "workers went though idle seconds were over")
    assert running.exit_code() is None

    team.store.start()
    team.until_ready("echo", "external")
    assert team.replicas() == team.replicas("external") == 2
    team.submit(count=10)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="three workers for 25 tasks")


def test_a_store_that_hangs_is_like_one_that_is_away_and_is_heard_again_afterwards(team: Team) -> None:
    team.operator()
    team.apply(crew(idleSeconds=2), crew("other"))
    team.until_ready("echo", "other")
    team.submit(count=15)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers")
    team.store.pause()
    try:
        machine.until(
            lambda: team.conditions()["Ready"][:2] == ("False", "StoreUnavailable"), within=180, what="it says so"
        )
        assert team.replicas() == 2
    finally:
        team.store.resume()
    team.until_ready("echo", "other")
    team.submit("other")
    machine.until(lambda: team.replicas("other") == 1, within=SOON, what="work that comes now is heard")


def test_what_all_crews_share_is_written_late_and_in_turns(
    team: Team,
    control_plane: ControlPlane,
    audit_writes: Callable[..., list[Write]],
    until_rest: Callable[..., int],
) -> None:
    names = [f"crew-{i}" for i in range(60)]
    team.operator()
    team.apply(*(crew(name) for name in names))
    team.until_ready(*names, within=180)

    def reasons() -> set[str]:
        found = [c for one in team.items("crews") for c in one["status"]["conditions"] if c["type"] == "Ready"]
        return {c["reason"] for c in found}

    def in_turns(writes: list[Write]) -> None:
        assert len([w for w in writes if w.subresource == "status"]) == len(names), "a status was written twice"
        times = sorted(datetime.fromisoformat(w.at) for w in writes)
        most = max(len([t for t in times if 0 <= (t - start).total_seconds() < 1]) for start in times)
        # Where the machine stands still, what was written in two seconds may arrive in one; without turns, all would.
        assert most <= 2 * PER_SECOND, f"{most} writes in one second"

    since = until_rest(OPERATOR, 2)
    killed = datetime.now(UTC)
    team.store.kill()
    team.kubectl("annotate", "crew", "--all", "look=1")  # so that each is reconciled while the store is away
    machine.until(lambda: reasons() == {"StoreUnavailable"}, within=SOON, what="all crews say so")
    writes = audit_writes(since, user=OPERATOR)
    in_turns(writes)
    waited = min(datetime.fromisoformat(w.at) for w in writes) - killed
    assert waited.total_seconds() >= SHARED_SECONDS, "what may pass in a moment is written at once"

    since = control_plane.audit_position()
    team.store.start()
    machine.until(lambda: reasons() == {"AgentsUnchecked"}, within=SOON, what="all crews are ready again")
    in_turns(audit_writes(since, user=OPERATOR))


def test_crews_whose_store_may_delete_work_are_ready_and_told_and_the_operator_writes_no_more_than_that(
    team: Team, audit_writes: Callable[..., list[Write]], until_rest: Callable[..., int]
) -> None:
    names = ["echo", "other"]
    team.store.client.config_set("maxmemory-policy", "allkeys-lru")
    running = team.operator(resync_seconds="1")
    team.apply(*(crew(name) for name in names))
    team.until_ready(*names)
    for name in names:
        machine.until(
            lambda name=name: team.conditions(name)["Ready"][1] == "StoreEvicts",  # type: ignore[misc]
            within=SOON,
            what="it says so",
        )
        said = team.conditions(name)["Ready"][2]
        assert "'allkeys-lru'" in said
        assert "CONFIG SET maxmemory-policy noeviction" in said
    assert [line for line in running.said() if "WARNING" in line and "'allkeys-lru'" in line]
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="it takes work")
    with team.worker("echo").start():
        machine.until(lambda: team.crew()["status"].get("waiting") == 0, within=SOON, what="the figures settle")

    since = until_rest(OPERATOR, 5)
    running.kill()
    running.start()
    hold(8, lambda: not audit_writes(since, user=OPERATOR), "a restart writes")

    team.store.kill()
    team.kubectl("annotate", "crew", "echo", "look=1")  # so that one is reconciled while the store is away
    hold(2, lambda: True, "")
    team.store.start()  # with the policy of its command line
    machine.until(
        lambda: {team.conditions(name)["Ready"][1] for name in names} <= {"Available", "AgentsUnchecked"},
        within=SOON,
        what="they no longer say it",
    )


# ---------------------------------------------------------------- what others stored, and what was left half-way


async def _foreign(team: Team, owner: str, *, stay: bool) -> None:
    """The store has a crew `echo` that somebody else keeps, or no longer."""
    keys = CrewKeys(team.namespace, "echo")
    definition = CrewDefinition(name="echo", agents=[AgentDefinition(agent_id="a", agent_class="EchoAgent")])
    async with connection.connected(team.store.url) as redis:
        if stay:
            await definitions.apply(redis, keys, definition, uid="theirs", owner=owner)
        else:
            assert await definitions.delete(redis, keys, "theirs")


@pytest.mark.parametrize("owner", ["team/release@another-cluster", ""], ids=["another cluster", "by hand"])
async def test_a_crew_that_is_anothers_in_the_store_is_refused_and_taken_up_when_it_goes(
    team: Team, owner: str
) -> None:
    await _foreign(team, owner, stay=True)
    before = team.stored()
    team.operator(resync_seconds="2")
    team.apply(crew(scaling={"mode": "External"}, replicas=2), crew("other"), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready("other")
    said = team.until_stalled("echo", "OwnerConflict")
    assert owner in said
    team.until_stalled("beat", "CrewNotStored", kind="heartbeat")
    hold(5, lambda: team.stored() == before and team.meta()["uid"] == "theirs", "what is another's was touched")
    assert team.deployments() == []
    team.kubectl("delete", "crew", "other")
    machine.until(lambda: not team.stored("other"), within=SOON, what="only ours is removed")
    assert team.stored() == before

    await _foreign(team, owner, stay=False)
    team.until_ready()
    assert "Stalled" not in team.conditions()
    assert team.meta()["uid"] == team.crew()["metadata"]["uid"]
    machine.until(lambda: team.replicas() == 2, within=SOON, what="workers")
    machine.until(
        lambda: team.conditions("beat", "heartbeat")["Ready"][0] == "True", within=SOON, what="its heartbeat fires"
    )


async def test_a_record_that_was_made_by_hand_is_neither_replaced_nor_swept(team: Team) -> None:
    async with connection.connected(team.store.url) as redis:
        mine = CrewRedis(client=redis, tenant=team.namespace)
        await mine.save_crew(CrewDefinition(name="echo", agents=[AgentDefinition(agent_id="mine")]))
        await mine.save_crew(CrewDefinition(name="alone", agents=[AgentDefinition(agent_id="mine")]))
        team.operator(resync_seconds="1")
        team.apply(crew())
        team.until_stalled("echo", "OwnerConflict")
        hold(3, lambda: len(team.stored("alone")) == 3, "it was swept")
        kept = await mine.load_crew("echo")
        assert kept is not None
        assert kept.agents[0].agent_id == "mine"
        await mine.delete_crew("echo")
    team.until_ready()


def test_two_operators_over_one_store_and_namespace_do_not_fight(
    team: Team, audit_writes: Callable[..., list[Write]], until_rest: Callable[..., int]
) -> None:
    first = team.operator(installation="one/watchbill")
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready()
    owner = team.meta()["owner"]
    since = until_rest(OPERATOR, 2)
    team.operator(installation="two/watchbill", resync_seconds="1")
    machine.until(lambda: audit_writes(since, user=OPERATOR), within=SOON, what="the second has said its part")
    team.until_ready()
    hold(5, lambda: len(audit_writes(since, user=OPERATOR)) <= 4, "they write in turns")
    assert team.meta()["owner"] == owner
    # the first is gone for good: now it is seen what is wrong
    first.kill()
    team.kubectl("patch", "crew", "echo", "--type=merge", '--patch={"spec":{"description":"new"}}')
    assert "one/watchbill" in team.until_stalled("echo", "OwnerConflict")


def test_a_removal_that_was_interrupted_is_finished(team: Team) -> None:
    first = team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready()
    team.submit(count=150)
    first.kill()
    team.kubectl("delete", "crew/echo", "heartbeat/beat")
    team.kubectl("delete", "deployments", "--selector=watchbill.dev/crew=echo")  # nothing but the store knows of it
    keys, uid = CrewKeys(team.namespace, "echo"), team.meta()["uid"]

    async def half() -> None:
        async with connection.connected(team.store.url) as redis:
            assert await definitions._step(redis, keys, uid, "begin")
            assert await definitions.delete_records(redis, keys, uid)
            assert await redis.zcard(keys.ids) == 50

    asyncio.run(half())
    team.operator()
    machine.until(lambda: not team.stored(), within=SOON, what="the store is clean")


def test_delayed_work_of_a_crew_at_zero_starts_a_worker_when_it_is_due_and_not_before(team: Team) -> None:
    team.operator()
    team.apply(crew())
    team.until_ready()
    began = time.monotonic()
    team.submit(agent="a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    team.submit(agent="a", scheduled_at=datetime.now(UTC) + timedelta(seconds=4))

    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker for what is due", every=0.05)

    assert time.monotonic() - began >= 4
