"""Crews and heartbeats that clients put into a store, look at and remove."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import Crew

from watchbill import local
from watchbill.api import Crew as Manifest
from watchbill.api import Heartbeat
from watchbill.api.meta import API_VERSION
from watchbill.client import Applied, Client, SyncClient
from watchbill.cluster_names import ANNOTATION_OWNER
from watchbill.errors import Conflict, InvalidInput, NotFound
from watchbill.names import CrewKeys
from watchbill.records import from_crew
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis


def manifest(name: str, *agents: str, **metadata: Any) -> Manifest:
    spec = {"agents": [{"name": agent, "class": "elsewhere:Agent"} for agent in agents or ("a",)]}
    return Manifest.model_validate({"metadata": {"name": name, **metadata}, "spec": spec})


def beat(name: str, crew: str, **spec: Any) -> Heartbeat:
    fields = {"crewRef": {"name": crew}, "intervalSeconds": 3600, "prompt": "Wake up.", **spec}
    return Heartbeat.model_validate({"metadata": {"name": name}, "spec": fields})


@pytest.fixture
async def name(crew_name: str, client: Client) -> AsyncIterator[str]:
    """Of a crew that isn't there yet, and is gone at the end."""
    yield crew_name
    with contextlib.suppress(NotFound):
        await client.delete(crew_name)


async def test_a_crew_is_created_changed_and_left_as_it_is(name: str, client: Client) -> None:
    crew, hourly = manifest(name, labels={"team": "x"}), beat("hourly", name)
    both = [f"test/{name}", "test/hourly"]
    for change in ("created", "unchanged"):
        assert await client.apply([crew, hourly]) == [
            Applied("crew", both[0], change),
            Applied("heartbeat", both[1], change),
        ]
    assert await client.apply(manifest(name, "a", "b", labels={"team": "x"})) == [
        Applied("crew", both[0], "configured")
    ]
    assert await client.apply(manifest(name, "a", "b", labels={"team": "y"})) == [
        Applied("crew", both[0], "configured")
    ]
    assert (await client.manifest(name))["metadata"]["labels"] == {"team": "y"}
    assert await client.apply(beat("hourly", name, agent="b")) == [Applied("heartbeat", both[1], "configured")]
    assert [(b.name, b.spec.agent) for b in await client.heartbeats(name)] == [("hourly", "b")]
    assert await client.submit(name, "x", agent="b", id="t1") == "t1"
    assert f"test/{name}" in await client.crews()


async def test_work_of_a_heartbeat_for_a_role_concerns_the_agents_of_the_role_alone(name: str, client: Client) -> None:
    asks = {"name": "asks", "class": "elsewhere:Agent", "prompt": "About {inputs.topic}"}
    guard = {"name": "guards", "class": "elsewhere:Agent", "roles": ["guard"]}
    crew = Manifest.model_validate({"metadata": {"name": name}, "spec": {"agents": [asks, guard]}})
    with pytest.raises(InvalidInput, match=r"spec.role: .*'gard'"):
        await client.apply([crew, beat("hourly", name, role="gard")])
    made = await client.apply([crew, beat("hourly", name, role="guard")])
    assert [one.change for one in made] == ["created", "created"]


async def test_nothing_is_stored_if_something_is_wrong(name: str, client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no agent 'nobody'"):
        await client.apply([manifest(name), beat("hourly", name, agent="nobody")])
    with pytest.raises(InvalidInput, match=r"heartbeat 'hourly': spec.crewRef.name: crew 'nowhere'"):
        await client.apply([manifest(name), beat("hourly", "nowhere")])
    (tmp_path / "crew.yaml").write_text("kind: Crew")
    sources: tuple[Any, ...] = (tmp_path / "crew.yaml", tmp_path, tmp_path / "no.yaml", [])
    for source in sources:
        with pytest.raises(InvalidInput):
            await client.apply(source)
    with pytest.raises(NotFound):
        await client.crew(name)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a step that no agent is": (
        {"agents": [{"name": "a", "prompt": "{steps.b}"}]},
        r"spec\.agents\[0\]\.prompt: .*'b'",
    ),
    "what is no reference": (
        {"agents": [{"name": "a", "prompt": "{input.x}"}]},
        r"spec\.agents\[0\]\.prompt: .*input\.x",
    ),
    "a list of a step that does not run before": (
        {"agents": [{"name": "a", "forEach": "{steps.b.list}"}, {"name": "b"}]},
        r"spec\.agents\[0\]\.forEach: .*does not run before",
    ),
    "an event's field that no event has": (
        {"agents": [{"name": "a"}], "watches": [{"name": "w", "events": ["task_failed"], "prompt": "{event.id}"}]},
        r"spec\.watches\[0\]\.prompt: .*event\.id",
    ),
    "an input that its watch does not give": (
        {
            "agents": [{"name": "a", "prompt": "{inputs.log}"}],
            "watches": [{"name": "w", "events": ["task_failed"], "prompt": "x"}],
        },
        r"spec\.watches\[0\]\.inputs\.log",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_crew_with_texts_that_cite_nothing_is_stored_by_nobody(
    what: str, name: str, client: Client, redis_url: str
) -> None:
    spec, said = WRONG[what]
    wrong = Manifest.model_validate({"metadata": {"name": name}, "spec": {"model": "test", **spec}})
    good = manifest(f"{name}-good")

    with pytest.raises(InvalidInput, match=f"crew '{name}': {said}"):
        await client.apply([good, wrong])
    with SyncClient(redis_url, namespace="test") as blocking, pytest.raises(InvalidInput, match=said):
        await asyncio.to_thread(blocking.apply, [good, wrong])
    with pytest.raises(InvalidInput, match=said):
        async with local.LocalCrews(redis_url, local.Manifests((good, wrong), (), ()), namespace="test"):
            pass
    assert not {f"test/{name}", f"test/{good.name}"} & set(await client.crews())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"schedule": "61 * * * *", "intervalSeconds": None}, r"spec\.schedule: '61 \* \* \* \*' is not a cron"),
        (
            {"schedule": "@daily", "intervalSeconds": None, "timeZone": "Mars/Olympus"},
            r"spec\.timeZone: .*is not a known time zone",
        ),
        ({"deliver": ["nowhere"]}, r"spec\.deliver\[0\]: crew '[^']+' has no destination 'nowhere'"),
    ],
)
async def test_a_heartbeat_that_can_fire_nothing_is_not_stored_and_neither_is_its_crew(
    spec: dict[str, Any], said: str, name: str, client: Client
) -> None:
    with pytest.raises(InvalidInput, match=f"heartbeat 'never': {said}"):
        await client.apply([manifest(name), beat("never", name, **spec)])
    with pytest.raises(NotFound):
        await client.crew(name)


async def test_what_is_given_twice_is_not_stored(name: str, client: Client, tmp_path: Path) -> None:
    for file in ("one.yaml", "two.yaml"):
        content = beat("hourly", name).model_dump(mode="json", by_alias=True, exclude_unset=True)
        (tmp_path / file).write_text(json.dumps({"apiVersion": API_VERSION, "kind": "Heartbeat", **content}))
    with pytest.raises(
        InvalidInput, match=r"two\.yaml:1: metadata\.name: heartbeat 'hourly' is in .*one\.yaml already"
    ):
        await client.apply(tmp_path)
    with pytest.raises(InvalidInput, match=f"crew '{name}': metadata.name: .*given 2 times"):
        await client.apply([manifest(name), manifest(name, "b")])
    with pytest.raises(InvalidInput, match=r"heartbeat 'hourly': metadata\.name: .*given 2 times"):
        await client.apply([manifest(name), beat("hourly", name), beat("hourly", name)])
    with pytest.raises(NotFound):
        await client.crew(name)


async def test_what_has_begun_keeps_its_definition_and_what_waits_stays(name: str, client: Client) -> None:
    await client.apply(manifest(name))
    run = await client.submit(name, "x", id="r1")
    await client.apply(manifest(name, "a", "b"))
    assert [step.name for step in (await client.status(name, run)).steps] == ["a"]
    assert [step.name for step in (await client.status(name, await client.submit(name, "x"))).steps] == ["a", "b"]


async def test_a_deleted_crew_leaves_nothing_behind(name: str, client: Client, crew: Crew) -> None:
    await client.apply([manifest(name), beat("hourly", name)])
    await client.submit(name, "x", id="r1")
    await client.delete(name)
    assert await crew.client.keys(f"*{name}*") == []
    with pytest.raises(NotFound, match=f"no crew 'test/{name}'"):
        await client.delete(name)
    await CrewRedis(client=crew.client, tenant="test").save_crew(from_crew(manifest(name)))  # and nothing but a record
    await client.delete(name)
    assert await crew.client.keys(f"*{name}*") == []


async def test_what_an_operator_keeps_is_refused_with_the_line_for_kubectl(
    name: str, client: Client, crew: Crew
) -> None:
    keys = CrewKeys("test", name)
    uid = await definitions.apply(crew.client, keys, from_crew(manifest(name)), owner="watchbill@uid")
    for work in (client.apply(manifest(name)), client.apply(beat("b", name))):
        with pytest.raises(Conflict, match="Use: kubectl apply -n test -f FILE"):
            await work
    with pytest.raises(Conflict, match=f"Use: kubectl delete crew -n test {name}"):
        await client.delete(name)
    await definitions.delete(crew.client, keys, uid)
    kept = manifest(name, annotations={ANNOTATION_OWNER: "watchbill@uid"})  # the store lost all but the record
    await CrewRedis(client=crew.client, tenant="test").save_crew(from_crew(kept))
    with pytest.raises(Conflict, match="the operator 'watchbill@uid' keeps crew"):
        await client.delete(name)
    await CrewRedis(client=crew.client, tenant="test").delete_crew(name)


async def test_who_asks_of_a_crew_that_is_not_there_is_told_which_are(crew: Crew, client: Client) -> None:
    """Also who asks for a run of it, which isn't there either."""
    await client.apply(manifest("known-crew", namespace="elsewhere"))
    try:
        for ask in (client.result, client.state, client.status, client.wait, client.cancel, client.interrupt):
            with pytest.raises(NotFound) as caught:
                await ask("elsewhere/nobody", "r1")
            assert str(caught.value) == (
                "the store has no crew 'elsewhere/nobody'. Namespace 'elsewhere' has: known-crew. "
                "To put it there: watchbill apply -f FILE"
            )
        with pytest.raises(NotFound, match="no run or task 'r1'"):
            await client.result(crew.keys.crew, "r1")
    finally:
        await client.delete("elsewhere/known-crew")


def test_the_same_without_a_loop(redis_url: str, crew_name: str) -> None:
    with SyncClient(redis_url, namespace="test") as client:
        assert [one.change for one in client.apply(manifest(crew_name))] == ["created"]
        assert client.manifest(crew_name)["kind"] == "Crew"
        client.delete(crew_name)
        assert f"test/{crew_name}" not in client.crews()


async def test_applied_at_once_by_many_it_is_one_crew(name: str, redis_url: str) -> None:
    async def apply() -> list[Applied]:
        async with Client(redis_url, namespace="test") as own:
            return await own.apply([manifest(name), beat("hourly", name)])

    await asyncio.gather(*(apply() for _ in range(8)))
    async with Client(redis_url, namespace="test") as client:
        assert [one.change for one in await client.apply([manifest(name), beat("hourly", name)])] == ["unchanged"] * 2
