"""Crew records: what is in Redis after each call, on the fake server for speed and on the real one for the truth."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from crew_records import crew_of, keys_of, raw, text

from watchbill import errors
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.store.crews import CrewRedis


async def test_the_example_of_the_seed_runs_as_written(private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    crew_redis = CrewRedis(redis_url=server.url)
    assert await crew_redis.ping() is True
    crew_def = CrewDefinition(
        name="blog_writing_team",
        description="A crew for researching and writing blog posts",
        execution_mode=ExecutionMode.SEQUENTIAL,
        agents=[
            AgentDefinition(
                agent_id="researcher",
                agent_class="BasicAgent",
                name="Content Researcher",
                config={"model": "gpt-4", "temperature": 0.7},
                tools=["web_search", "summarize"],
                system_prompt="You are an expert researcher.",
            ),
            AgentDefinition(
                agent_id="writer",
                agent_class="BasicAgent",
                name="Blog Writer",
                config={"model": "gpt-4", "temperature": 0.9},
                tools=["write", "format_markdown"],
                system_prompt="You are a creative blog writer.",
            ),
        ],
        shared_tools=["calculator"],
        metadata={"version": "1.0", "author": "content_team"},
    )
    assert await crew_redis.save_crew(crew_def) is True

    loaded = await crew_redis.load_crew("blog_writing_team")
    assert loaded is not None
    assert loaded.content() == crew_def.content()
    assert loaded.crew_id == crew_def.crew_id
    assert await crew_redis.load_crew_by_id(crew_def.crew_id) == loaded
    assert await crew_redis.load_crew("nonexistent_crew") is None
    assert await crew_redis.load_crew_by_id("some-uuid-here") is None
    assert await crew_redis.list_crews() == ["blog_writing_team"]
    assert await crew_redis.get_all_crews() == [loaded]
    assert await crew_redis.crew_exists("blog_writing_team") is True
    assert await crew_redis.crew_exists("nonexistent_crew") is False

    update = {"status": "active", "runs": 10, "last_run": "2025-12-12T10:00:00"}
    assert await crew_redis.update_crew_metadata("blog_writing_team", update) is True
    metadata = await crew_redis.get_crew_metadata("blog_writing_team")
    assert metadata is not None
    assert datetime.fromisoformat(metadata.pop("updated_at")) > datetime.fromisoformat(metadata.pop("created_at"))
    assert metadata == {
        "crew_id": crew_def.crew_id,
        "name": "blog_writing_team",
        "description": "A crew for researching and writing blog posts",
        "execution_mode": "sequential",
        "agent_count": 2,
        "metadata": {"version": "1.0", "author": "content_team", **update},
    }

    async with redis.asyncio.Redis.from_url(server.url, db=2, decode_responses=True) as disk:
        kept = {key for key in await disk.keys() if ":answer:" not in key}
        assert kept == {"crew:blog_writing_team", "crew:list", f"crew:id:{crew_def.crew_id}", "crew:tenants"}
        assert await disk.smembers("crew:list") == {"blog_writing_team"}
        assert await disk.get(f"crew:id:{crew_def.crew_id}") == "blog_writing_team"
        assert await disk.smembers("crew:tenants") == {"global"}

        assert await crew_redis.delete_crew("blog_writing_team") is True
        assert await crew_redis.delete_crew("blog_writing_team") is False
        await crew_redis.save_crew(crew_def)
        assert await crew_redis.clear_all_crews() == 1
        assert {key for key in await disk.keys() if ":answer:" not in key} == {"crew:tenants"}
    await crew_redis.close()


async def test_the_url_decides_the_db_and_db_2_is_the_default(private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    cases: list[tuple[str, dict[str, Any], int]] = [
        (server.url, {}, 2),
        (server.url, {"db": 5}, 5),
        (f"{server.url}?db=3", {}, 3),
        (f"{server.url}?db=0", {"db": 5}, 0),
    ]
    for url, db, expected in cases:
        async with CrewRedis(url, "prefix", **db) as store:
            assert await store.save_crew(crew_of(f"in-{expected}"))
        async with redis.asyncio.Redis.from_url(server.url, db=expected) as disk:
            assert await disk.exists(f"prefix:in-{expected}")


@pytest.mark.pure
def test_the_default_is_the_server_of_this_machine() -> None:
    made = CrewRedis()._redis.connection_pool.connection_kwargs
    assert (made.get("host", "localhost"), made.get("port", 6379), made["db"]) == ("localhost", 6379, 2)


@pytest.mark.pure
@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://user:hunter2@host:port", ""])
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    if not url:
        CrewRedis(url)  # not given
        return
    with pytest.raises(errors.InvalidInput) as caught:
        CrewRedis(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.pure
@pytest.mark.parametrize("tenant", ["", "a{b", "a}b", "a:b", "a/b", "a\nb", "x" * 254])
def test_a_tenant_that_would_break_the_keys_is_refused(tenant: str) -> None:
    with pytest.raises(errors.InvalidInput, match="tenant"):
        CrewRedis(tenant=tenant)


@pytest.mark.pure
def test_an_empty_prefix_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="prefix"):
        CrewRedis(key_prefix="")


async def test_a_given_client_stays_open_and_an_own_one_is_closed(redis_url: str, tenant: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url, client_name=tenant) as given:
        async with CrewRedis(client=given, tenant=tenant) as store:
            assert await store.save_crew(crew_of())
        assert tenant in [c["name"] for c in await given.client_list()]  # not closed, and so not connected anew
        before = {c["id"] for c in await given.client_list()}
        async with CrewRedis(redis_url, tenant=tenant) as own:
            assert await own.ping()
            assert {c["id"] for c in await given.client_list()} - before
        async with asyncio.timeout(180):
            while {c["id"] for c in await given.client_list()} - before:
                await asyncio.sleep(0.01)


async def test_the_keys_are_the_ones_that_are_documented(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    saved = crew_of()
    assert await store.save_crew(saved)
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:blog", f"{base}:list", f"{base}:id:{saved.crew_id}"}
    assert text(await client.get(f"{base}:id:{saved.crew_id}")) == "blog"
    assert {text(name) for name in await client.smembers(f"{base}:list")} == {"blog"}
    assert await client.sismember("crew:tenants", tenant)


async def test_the_record_is_plain_json_with_the_seeds_fields_and_aware_times(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    saved = crew_of(description="Über", shared_tools=["calculator"], metadata={"at": datetime(2025, 1, 1, tzinfo=UTC)})
    await store.save_crew(saved)
    record = await raw(client, f"crew:{{{tenant}}}:blog")
    seed = {"crew_id", "name", "description", "execution_mode", "agents", "flow_relations", "shared_tools"}
    assert seed | {"max_parallel_tasks", "metadata", "created_at", "updated_at"} <= record.keys()
    assert record["description"] == "Über"
    assert record["metadata"] == {"at": "2025-01-01T00:00:00Z"}
    assert record["record_version"] == 1
    updated = datetime.fromisoformat(record["updated_at"])
    assert updated.utcoffset() == timedelta(0)
    assert abs(updated - datetime.now(UTC)) < timedelta(minutes=1)


async def test_saving_again_keeps_the_time_of_creation_and_advances_the_rest(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of(crew_id="one", created_at=datetime(2024, 1, 1, tzinfo=UTC)))
    first = await raw(client, f"crew:{{{tenant}}}:blog")
    await store.save_crew(crew_of(crew_id="one", description="new"))
    second = await raw(client, f"crew:{{{tenant}}}:blog")
    assert first["created_at"] == second["created_at"] == "2024-01-01T00:00:00+00:00"
    assert datetime.fromisoformat(second["updated_at"]) > datetime.fromisoformat(first["updated_at"])
    assert (second["description"], second["record_version"]) == ("new", 2)


async def test_updated_at_advances_even_when_the_clock_was_set_back(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of())
    key = f"crew:{{{tenant}}}:blog"
    await client.set(key, json.dumps({**await raw(client, key), "updated_at": "2199-01-01T00:00:00+00:00"}))
    await store.update_crew_metadata("blog", {"a": 1})
    assert (await raw(client, key))["updated_at"] == "2199-01-01T00:00:00.000001+00:00"


async def test_the_old_id_of_an_overwritten_crew_no_longer_resolves(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of(crew_id="old"))
    await store.save_crew(crew_of(crew_id="new"))
    assert await store.load_crew_by_id("old") is None
    loaded = await store.load_crew_by_id("new")
    assert loaded is not None
    assert loaded.name == "blog"
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:blog", f"{base}:list", f"{base}:id:new"}


async def test_an_id_whose_entry_was_left_behind_resolves_to_no_other_crew(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of(crew_id="new"))
    await client.set(f"crew:{{{tenant}}}:id:old", "blog")  # as the seed's code leaves it
    await client.set(f"crew:{{{tenant}}}:id:odd", "list")
    assert await store.load_crew_by_id("old") is None
    assert await store.load_crew_by_id("odd") is None


async def test_an_id_of_another_crew_is_refused_and_both_stay_as_they_were(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of("a", crew_id="mine"))
    keys = await keys_of(client, tenant)
    assert await store.save_crew(crew_of("b", crew_id="mine")) is False
    with pytest.raises(errors.Conflict, match="'mine' is already used by the crew 'a'"):
        await strict.save_crew(crew_of("b", crew_id="mine"))
    assert await keys_of(client, tenant) == keys
    found = await store.load_crew_by_id("mine")
    assert found is not None
    assert found.name == "a"


async def test_an_id_whose_crew_has_no_right_to_it_can_be_used_again(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str
) -> None:
    await strict.save_crew(crew_of("a", crew_id="mine"))
    await client.delete(f"crew:{{{tenant}}}:a")  # by hand, or by an eviction
    await strict.save_crew(crew_of("b", crew_id="mine"))
    await strict.save_crew(crew_of("a", crew_id="other"))
    found = await strict.load_crew_by_id("mine")
    assert found is not None
    assert found.name == "b"


async def test_a_delete_leaves_nothing_and_touches_no_other_crew(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of("a"))
    await store.save_crew(kept := crew_of("b"))
    assert await store.delete_crew("a") is True
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:b", f"{base}:list", f"{base}:id:{kept.crew_id}"}
    assert await store.list_crews() == ["b"]
    assert await store.delete_crew("a") is False
    with pytest.raises(errors.NotFound, match="'a'"):
        await strict.delete_crew("a")


async def test_tenants_do_not_see_each_other(client: redis.asyncio.Redis, tenant: str) -> None:
    here, there = CrewRedis(client=client, tenant=tenant), CrewRedis(client=client, tenant=f"{tenant}-2")
    await here.save_crew(crew_of(crew_id="x", description="here"))
    await there.save_crew(crew_of(crew_id="x", description="there"))
    assert await here.clear_all_crews() == 1
    assert await here.load_crew_by_id("x") is None
    kept = await there.load_crew_by_id("x")
    assert kept is not None
    assert kept.description == "there"


@pytest.mark.parametrize("name", ["list", "id", "tenants", "", "id:x", "{other}:blog", "a/b", "a\x00b", None])
async def test_a_name_that_would_lead_to_another_key_is_refused_everywhere(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str, name: Any
) -> None:
    await store.save_crew(crew_of(crew_id="x"))
    keys = await keys_of(client, tenant)
    unchecked = crew_of()
    unchecked.name = name
    for answer in (store.save_crew(unchecked), store.delete_crew(name), store.update_crew_metadata(name, {"a": 1})):
        assert await answer is False
    assert await store.crew_exists(name) is False
    assert await store.load_crew(name) is None
    assert await store.get_crew_metadata(name) is None
    with pytest.raises(errors.InvalidInput):
        await strict.load_crew(name)
    with pytest.raises(errors.InvalidInput):
        await strict.save_crew(unchecked)
    assert await keys_of(client, tenant) == keys


@pytest.mark.parametrize("crew_id", ["", "a\nb", "\ud800", None])
async def test_an_id_that_is_no_id_is_refused(store: CrewRedis, strict: CrewRedis, crew_id: Any) -> None:
    broken = crew_of()
    broken.crew_id = crew_id
    assert await store.save_crew(broken) is False
    assert await store.load_crew_by_id(crew_id) is None
    with pytest.raises(errors.InvalidInput, match="crew_id"):
        await strict.load_crew_by_id(crew_id)
    assert await store.list_crews() == []


async def test_a_crew_that_could_not_be_loaded_again_is_not_stored(store: CrewRedis, strict: CrewRedis) -> None:
    for broken in (
        crew_of(metadata={"o": object()}),
        crew_of(metadata={"nan": math.nan}),
        crew_of(metadata={"half": "\ud800"}),
        crew_of().model_copy(update={"agents": []}),
        crew_of().model_copy(update={"flow_relations": [FlowRelation(source="writer", target="market_researcher")]}),
    ):
        assert await store.save_crew(broken) is False
        with pytest.raises(errors.InvalidInput):
            await strict.save_crew(broken)
    assert await store.list_crews() == []
