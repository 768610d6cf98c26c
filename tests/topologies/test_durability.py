"""How safe a submission is when it is acknowledged: asked of real replicas and real disks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import servers
from workshop import Crew

from ports import HOST, free_ports
from waiting import until
from watchbill.client import Client
from watchbill.connection import client as connections
from watchbill.errors import NotDurable, UserActionRequired
from watchbill.store import durability as durable
from watchbill.tasks import AgentTask, Durability

Fresh = Callable[..., servers.Store]
CrewIn = Callable[..., Any]


CONFIRM_SECONDS = 120.0
"""A busy machine may need so long to confirm."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", CONFIRM_SECONDS)
    monkeypatch.setattr(connections, "REPLY_TIMEOUT_SECONDS", 2 * CONFIRM_SECONDS)


async def submitted(crew: Crew, how: Durability, name: str) -> None:
    """A task, many, and a run."""
    assert await crew.submit(f"{name}-task", "a", durability=how) == f"{name}-task"
    many = [AgentTask(task_id=f"{name}-{i}", agent_name="a", prompt="x") for i in range(3)]
    assert await crew.client.submit_many(crew.name, "a", many, durability=how) == [t.task_id for t in many]
    assert await crew.submit(f"{name}-run", durability=how) == f"{name}-run"


async def test_what_a_replica_confirmed_is_there_when_the_master_is_killed(fresh_store: Fresh, crew_in: CrewIn) -> None:
    store = fresh_store("valkey-standalone", replicas=1)
    crew = await crew_in(store, {"a": "Brief"})
    await submitted(crew, Durability.REPLICA, "x")
    store.servers[0].kill()
    replica = store.servers[1]
    await asyncio.to_thread(replica.ask, "REPLICAOF", "NO", "ONE")
    of_replica = await crew.through(f"redis://{replica.address}/0")
    ids = {"x-task", "x-0", "x-1", "x-2", "x-run"}
    assert set(await of_replica.client.unfinished(crew.name)) == ids
    await of_replica.worker()
    try:
        assert all([(await of_replica.result(task)).success for task in ids])
    finally:
        of_replica.kill()


async def test_what_is_on_disk_is_there_when_the_server_is_killed(fresh_store: Fresh, crew_in: CrewIn) -> None:
    store = fresh_store("valkey-standalone", options={"appendfsync": "everysec"})
    crew = await crew_in(store, {"a": "Brief"})
    await submitted(crew, Durability.FSYNC, "x")
    store.servers[0].kill()
    await asyncio.to_thread(store.servers[0].start)
    await crew.worker()
    assert all(result.success for result in await crew.results(["x-task", "x-0", "x-1", "x-2", "x-run"]))


async def test_without_a_replica_nobody_confirms_and_sending_again_is_safe(
    fresh_store: Fresh, crew_in: CrewIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", 0.3)
    store = fresh_store("valkey-standalone")
    crew = await crew_in(store, {"a": "Brief"})
    with pytest.raises(
        NotDurable, match=r"no replica confirmed .* 't' may be stored; sending it again .* is safe"
    ) as e:
        await crew.submit("t", "a", durability=Durability.REPLICA)
    assert e.value.ids == ("t",)
    with pytest.raises(NotDurable) as of_run:
        await crew.client.submit(crew.name, "x", durability=Durability.REPLICA)
    (run,) = of_run.value.ids  # which nobody gave
    assert set(await crew.client.unfinished(crew.name)) == {"t", run}
    replica = servers.Server(store.master.binary, store.master.folder / "replica", free_ports(1)[0], servers.DATA)
    store.servers.append(replica)
    await asyncio.to_thread(replica.start)
    await asyncio.to_thread(replica.ask, "REPLICAOF", HOST, store.servers[0].port)
    await until(lambda: replica.ask("ROLE")[3] == "connected", what="replication")
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", CONFIRM_SECONDS)
    assert await crew.submit("t", "a", durability=Durability.REPLICA) == "t"
    assert await crew.submit(run, None, "x", durability=Durability.REPLICA) == run
    await crew.worker()
    assert all(result.success for result in await crew.results(["t", run]))
    assert crew.executions() == {"t": 1, f"{run}/a": 1}


async def test_a_replica_that_has_stopped_reading_confirms_nothing(
    fresh_store: Fresh, crew_in: CrewIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fresh_store("valkey-standalone", replicas=1)
    crew = await crew_in(store, {"a": "Brief"})
    await submitted(crew, Durability.REPLICA, "before")
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", 0.3)
    store.servers[1].pause()
    with pytest.raises(NotDurable):
        await crew.submit("t", "a", durability=Durability.REPLICA)
    store.servers[1].resume()
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", CONFIRM_SECONDS)
    assert await crew.submit("t", "a", durability=Durability.REPLICA) == "t"


async def confirmed(crew: Crew, how: Durability) -> set[str]:
    """Which of a task, many, a run, and one that has a dedupe key were confirmed, sent by a client of its own."""
    async with Client(crew.url) as client:
        many = [AgentTask(task_id=f"x-{i}", agent_name="a", prompt="x") for i in range(3)]
        sent = {
            "task": client.submit(crew.name, "x", agent="a", id="x-task", durability=how),
            "many": client.submit_many(crew.name, "a", many, durability=how),
            "run": client.submit(crew.name, "x", id="x-run", durability=how),
            "dedupe": client.submit(crew.name, "x", agent="a", dedupe_key="task", durability=how),
            "dedupe-run": client.submit(crew.name, "x", dedupe_key="run", durability=how),
        }
        answers = await asyncio.gather(*sent.values(), return_exceptions=True)
    assert all(isinstance(answer, NotDurable) for answer in answers if isinstance(answer, Exception)), answers
    return {name for name, answer in zip(sent, answers, strict=True) if not isinstance(answer, NotDurable)}


async def test_what_is_there_already_is_confirmed_no_sooner_when_another_client_sends_it(
    fresh_store: Fresh, crew_in: CrewIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has written nothing itself: the server would tell it that nothing of its own is missing anywhere."""
    store = fresh_store("valkey-standalone", options={"appendfsync": "no"}, replicas=1)
    crew = await crew_in(store, {"a": "Brief"})
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", 0.2)
    store.servers[1].pause()
    for how in (Durability.REPLICA, Durability.FSYNC):
        assert await confirmed(crew, how) == set()
        assert await confirmed(crew, how) == set()
    monkeypatch.setattr(durable, "CONFIRM_SECONDS", CONFIRM_SECONDS)
    store.servers[1].resume()
    await asyncio.to_thread(store.servers[0].ask, "CONFIG", "SET", "appendfsync", "always")
    for how in (Durability.REPLICA, Durability.FSYNC):
        assert len(await confirmed(crew, how)) == 5
    assert len(await crew.client.unfinished(crew.name)) == 7  # each of them once


async def test_a_server_that_writes_no_disk_can_not_confirm_that_it_did(fresh_store: Fresh, crew_in: CrewIn) -> None:
    crew = await crew_in(fresh_store("valkey-standalone", options={"appendonly": "no"}), {"a": "Brief"})
    with pytest.raises(UserActionRequired, match="appendonly yes: 't' may be stored"):
        await crew.submit("t", "a", durability=Durability.FSYNC)


async def test_redis_7_0_confirms_replicas_but_no_disks(fresh_store: Fresh, crew_in: CrewIn) -> None:
    crew = await crew_in(fresh_store("redis7-standalone", replicas=1), {"a": "Brief"})
    await submitted(crew, Durability.REPLICA, "x")
    with pytest.raises(UserActionRequired, match=r"needs Redis 7\.2 or Valkey: 't' may be stored"):
        await crew.submit("t", "a", durability=Durability.FSYNC)


async def test_scripts_that_the_server_has_forgotten_are_sent_again_with_their_question(
    fresh_store: Fresh, crew_in: CrewIn
) -> None:
    store = fresh_store("valkey-standalone", replicas=1)
    crew = await crew_in(store, {"a": "Brief"})
    await submitted(crew, Durability.REPLICA, "x")
    await crew.redis.script_flush()
    await submitted(crew, Durability.FSYNC, "y")
    store.master.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # kept connections are broken
    await submitted(crew, Durability.REPLICA, "z")
