"""Crews at work in one process, and what goes on after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from places import Place

import watchbill.client
from waiting import until
from watchbill import local
from watchbill.client import Client
from watchbill.embedded import EmbeddedStore
from watchbill.errors import Conflict, NotFound, StoreUnavailable
from watchbill.names import CrewKeys
from watchbill.store import runs
from watchbill.store.crews import CrewRedis
from watchbill.tasks import RunResult, TaskState

OWNER = Path(__file__).parent.parent / "worker" / "owner.py"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- crews at work


async def test_local_crews_keep_the_record_and_applies_its_file_again(
    place: Place, redis_url: str, crew_name: str
) -> None:
    file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say"}])
    first = await watchbill.client.run(file, "x", redis_url=redis_url, id="one", timeout=180)
    file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say", "config": {"suffix": "!"}}])
    second = await watchbill.client.run(file, "x", redis_url=redis_url, id="two", timeout=180)
    assert (first.output, second.output) == ("X", "X!")
    keys = CrewKeys("default", crew_name)
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        record = await CrewRedis(client=client, tenant="default").load_crew(crew_name)
        assert record is not None
        assert record.crew_id == await client.hget(keys.meta, "uid")
        assert record.agents[0].config == {"suffix": "!"}
        assert len(await client.keys(keys.prefix + "def:*")) == 1, "no run refers to the old definition"
        assert await client.zrange(keys.leases, 0, -1) == []
        await client.delete(*await client.keys(f"*{crew_name}*"))


async def test_the_same_id_again_is_answered_and_not_run_again(place: Place, redis_url: str, crew_name: str) -> None:
    file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say"}])
    one = await watchbill.client.run(file, "x", redis_url=redis_url, id="same", timeout=180)
    two = await watchbill.client.run(file, "x", redis_url=redis_url, id="same", timeout=180)
    assert one == two
    assert place.executions() == {"same/a": 1}
    others: tuple[dict[str, Any], ...] = ({"prompt": "y"}, {"prompt": "x", "agent": "a"})
    for other in others:
        with pytest.raises(Conflict):
            await watchbill.client.run(file, **other, redis_url=redis_url, id="same", timeout=180)


async def test_several_crews_work_in_one_process(place: Place, redis_url: str, crew_name: str) -> None:
    files = []
    for suffix in ("-x", "-y"):
        made = place.crew(name=crew_name + suffix, agents=[{"name": "a", "class": "Say", "config": {"suffix": suffix}}])
        files.append(made.rename(place.folder / f"crew{suffix}.yaml"))
    async with local.LocalCrews(redis_url, local.load(files), grace_seconds=0), Client(redis_url) as client:
        outputs = await asyncio.gather(*(client.run(crew_name + s, "hi", timeout=180) for s in ("-x", "-y")))
    assert [run.output for run in outputs] == ["HI-x", "HI-y"]


async def test_a_heartbeat_is_of_the_crew_of_its_own_namespace(place: Place, redis_url: str, crew_name: str) -> None:
    files = []
    for namespace in ("east", "west", None):
        file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say"}])
        crew = json.loads(file.read_text())
        crew["metadata"] |= {"namespace": namespace} if namespace else {}
        files.append(place.folder / f"{namespace}.yaml")
        files[-1].write_text(json.dumps(crew))
    for namespace in ("west", None):
        spec = {"crewRef": {"name": crew_name}, "schedule": "0 0 1 1 *", "prompt": "happy new year"}
        beat = {
            "apiVersion": "watchbill.dev/v1alpha1",
            "kind": "Heartbeat",
            "metadata": {"name": "yearly"},
            "spec": spec,
        }
        beat["metadata"] |= {"namespace": namespace} if namespace else {}  # type: ignore[operator]
        with (place.folder / f"{namespace}.yaml").open("a") as out:
            out.write(f"\n---\n{json.dumps(beat)}\n")
    async with (
        local.LocalCrews(redis_url, local.load(files), namespace="mine", grace_seconds=0, watch=True),
        Client(redis_url) as client,
        redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as raw,
    ):
        for namespace, has in (("east", False), ("west", True), ("mine", True)):
            keys = CrewKeys(namespace, crew_name)
            assert bool(await raw.exists(keys.heartbeat("yearly"))) is has, namespace
        with pytest.raises(NotFound, match="yearly"):
            await client.fire(f"east/{crew_name}", "yearly")
        await raw.delete(*await raw.keys(f"*{crew_name}*"))


async def test_work_for_a_crew_that_is_not_there_says_so(redis_url: str, crew_name: str) -> None:
    with pytest.raises(NotFound, match=crew_name):
        async with local.LocalCrews(redis_url, crews=[f"default/{crew_name}"]):
            pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_without_a_store_says_so_soon(place: Place) -> None:
    file = place.crew(agents=[{"name": "a", "class": "Say"}])
    with pytest.raises(StoreUnavailable):
        async with (
            asyncio.timeout(180),
            local.LocalCrews(f"unix://{place.folder}/nothing.sock", local.load([file])),
        ):
            pass


# ---------------------------------------------------------------- going on after a kill


async def test_a_run_whose_process_was_killed_goes_on_at_once_in_the_next_one(place: Place) -> None:
    """Nobody waits for the lease: the process that held it was one of this host."""
    names = ("s1", "s2", "s3")
    kinds = ("Say", "Wait", "Say")
    agents = [{"name": name, "class": kind} for name, kind in zip(names, kinds, strict=True)]
    file = place.crew(agents=agents, tasks={"leaseSeconds": 600})
    folder = place.folder / ".watchbill"
    log = place.folder / "stderr"
    with log.open("wb") as err:
        owner = subprocess.Popen(
            [sys.executable, str(OWNER), str(folder), str(file), "r", "hello"], stderr=err, stdin=subprocess.DEVNULL
        )
    try:
        await until(lambda: place.executions()["r/s2"] or owner.poll() is not None)
        assert owner.poll() is None, log.read_text()
        # an agent begins while its worker tells the store of it
        async with asyncio.timeout(180), await EmbeddedStore.open(folder) as store, Client(store.url) as client:
            while (await client.status("crew", "r")).steps[1].status is not TaskState.RUNNING:
                await asyncio.sleep(0.01)
    finally:
        owner.kill()
        owner.wait()
    (place.folder / "open").touch()

    async with await EmbeddedStore.open(folder) as store, Client(store.url) as client:
        # the owner's server may still be about to end: who attached to it takes over
        await until(lambda: store.owner)
        assert await client.unfinished("crew") == ["r"]
        run_status = await client.status("crew", "r")
        states = {step.name: step.status for step in run_status.steps}
        assert states == {"s1": TaskState.COMPLETED, "s2": TaskState.RUNNING, "s3": TaskState.WAITING}
        async with local.LocalCrews(store.url, local.load([file]), grace_seconds=0):
            run = await client.wait("crew", "r", timeout=180)
        assert isinstance(run, RunResult)
        assert run.success
        assert place.executions() == {"r/s1": 1, "r/s2": 2, "r/s3": 1}
        assert run.steps["s2"].attempt == 2
        assert await client.unfinished("crew") == []
        async with redis.asyncio.Redis.from_url(store.url, decode_responses=True) as raw:
            assert await runs.prompt_of(raw, CrewKeys("default", "crew"), "r") == "hello"
    assert {line["pid"] for line in place.notes()} == {owner.pid, os.getpid()}


async def test_work_that_was_only_submitted_is_done_by_the_next_process(place: Place) -> None:
    file = place.crew(agents=[{"name": "a", "class": "Say"}])
    folder = place.folder / ".watchbill"
    async with await EmbeddedStore.open(folder) as store:
        async with local.LocalCrews(store.url, local.load([file]), grace_seconds=0):
            pass
        async with Client(store.url) as client:
            await client.submit("crew", "later", id="r")
    async with (
        await EmbeddedStore.open(folder) as store,
        local.LocalCrews(store.url, local.load([file]), grace_seconds=0),
        Client(store.url) as client,
    ):
        assert (await client.wait("crew", "r", timeout=180)).output == "LATER"
