"""Crew records: what is in Redis after each call, on the fake server for speed and on the real one for the truth."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis.asyncio
import redis.exceptions

from watchbill import errors, local_server
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.store.crews import CrewRedis

MANY = 1_100  # more than two chunks


def crew(name: str = "blog", **fields: Any) -> CrewDefinition:
    return CrewDefinition(name=name, agents=[AgentDefinition(agent_id="writer")], **fields)


@pytest.fixture
def tenant() -> str:
    return f"team-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=[pytest.param("fake", marks=pytest.mark.pure), "real"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[redis.asyncio.Redis]:
    """Both kinds of answers too: bytes from the fake, text from the real one."""
    if request.param == "fake":
        made: redis.asyncio.Redis = fakeredis.FakeAsyncRedis()
    else:
        made = redis.asyncio.Redis.from_url(request.getfixturevalue("redis_url"), decode_responses=True)
    async with made:
        yield made


@pytest.fixture
def store(client: redis.asyncio.Redis, tenant: str) -> CrewRedis:
    return CrewRedis(client=client, tenant=tenant)


@pytest.fixture
def strict(client: redis.asyncio.Redis, tenant: str) -> CrewRedis:
    return CrewRedis(client=client, tenant=tenant, strict=True)


def text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


async def raw(client: redis.asyncio.Redis, key: str) -> Any:
    value = await client.get(key)
    return None if value is None else json.loads(value)


async def keys_of(client: redis.asyncio.Redis, tenant: str) -> set[str]:
    """The tenant's keys without the scripts' short-lived answers, each of which must expire."""
    found = {text(key) async for key in client.scan_iter(match=f"crew:{{{tenant}}}:*", count=1000)}
    answers = {key for key in found if ":answer:" in key}
    for key in answers:
        assert 0 < await client.ttl(key) <= 120
    return found - answers


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
            assert await store.save_crew(crew(f"in-{expected}"))
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
            assert await store.save_crew(crew())
        assert tenant in [c["name"] for c in await given.client_list()]  # not closed, and so not connected anew
        before = {c["id"] for c in await given.client_list()}
        async with CrewRedis(redis_url, tenant=tenant) as own:
            assert await own.ping()
            assert {c["id"] for c in await given.client_list()} > before
        async with asyncio.timeout(10):
            while {c["id"] for c in await given.client_list()} - before:
                await asyncio.sleep(0.01)


async def test_the_keys_are_the_ones_that_are_documented(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    saved = crew()
    assert await store.save_crew(saved)
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:blog", f"{base}:list", f"{base}:id:{saved.crew_id}"}
    assert text(await client.get(f"{base}:id:{saved.crew_id}")) == "blog"
    assert {text(name) for name in await client.smembers(f"{base}:list")} == {"blog"}
    assert await client.sismember("crew:tenants", tenant)


async def test_the_record_is_plain_json_with_the_seeds_fields_and_aware_times(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    saved = crew(description="Über", shared_tools=["calculator"], metadata={"at": datetime(2025, 1, 1, tzinfo=UTC)})
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
    await store.save_crew(crew(crew_id="one", created_at=datetime(2024, 1, 1, tzinfo=UTC)))
    first = await raw(client, f"crew:{{{tenant}}}:blog")
    await store.save_crew(crew(crew_id="one", description="new"))
    second = await raw(client, f"crew:{{{tenant}}}:blog")
    assert first["created_at"] == second["created_at"] == "2024-01-01T00:00:00+00:00"
    assert datetime.fromisoformat(second["updated_at"]) > datetime.fromisoformat(first["updated_at"])
    assert (second["description"], second["record_version"]) == ("new", 2)


async def test_updated_at_advances_even_when_the_clock_was_set_back(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew())
    key = f"crew:{{{tenant}}}:blog"
    await client.set(key, json.dumps({**await raw(client, key), "updated_at": "2199-01-01T00:00:00+00:00"}))
    await store.update_crew_metadata("blog", {"a": 1})
    assert (await raw(client, key))["updated_at"] == "2199-01-01T00:00:00.000001+00:00"


async def test_the_old_id_of_an_overwritten_crew_no_longer_resolves(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew(crew_id="old"))
    await store.save_crew(crew(crew_id="new"))
    assert await store.load_crew_by_id("old") is None
    loaded = await store.load_crew_by_id("new")
    assert loaded is not None
    assert loaded.name == "blog"
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:blog", f"{base}:list", f"{base}:id:new"}


async def test_an_id_whose_entry_was_left_behind_resolves_to_no_other_crew(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew(crew_id="new"))
    await client.set(f"crew:{{{tenant}}}:id:old", "blog")  # as the seed's code leaves it
    await client.set(f"crew:{{{tenant}}}:id:odd", "list")
    assert await store.load_crew_by_id("old") is None
    assert await store.load_crew_by_id("odd") is None


async def test_an_id_of_another_crew_is_refused_and_both_stay_as_they_were(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew("a", crew_id="mine"))
    keys = await keys_of(client, tenant)
    assert await store.save_crew(crew("b", crew_id="mine")) is False
    with pytest.raises(errors.Conflict, match="'mine' is already used by the crew 'a'"):
        await strict.save_crew(crew("b", crew_id="mine"))
    assert await keys_of(client, tenant) == keys
    found = await store.load_crew_by_id("mine")
    assert found is not None
    assert found.name == "a"


async def test_an_id_whose_crew_has_no_right_to_it_can_be_used_again(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str
) -> None:
    await strict.save_crew(crew("a", crew_id="mine"))
    await client.delete(f"crew:{{{tenant}}}:a")  # by hand, or by an eviction
    await strict.save_crew(crew("b", crew_id="mine"))
    await strict.save_crew(crew("a", crew_id="other"))
    found = await strict.load_crew_by_id("mine")
    assert found is not None
    assert found.name == "b"


async def test_a_delete_leaves_nothing_and_touches_no_other_crew(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew("a"))
    await store.save_crew(kept := crew("b"))
    assert await store.delete_crew("a") is True
    base = f"crew:{{{tenant}}}"
    assert await keys_of(client, tenant) == {f"{base}:b", f"{base}:list", f"{base}:id:{kept.crew_id}"}
    assert await store.list_crews() == ["b"]
    assert await store.delete_crew("a") is False
    with pytest.raises(errors.NotFound, match="'a'"):
        await strict.delete_crew("a")


async def test_tenants_do_not_see_each_other(client: redis.asyncio.Redis, tenant: str) -> None:
    here, there = CrewRedis(client=client, tenant=tenant), CrewRedis(client=client, tenant=f"{tenant}-2")
    await here.save_crew(crew(crew_id="x", description="here"))
    await there.save_crew(crew(crew_id="x", description="there"))
    assert await here.clear_all_crews() == 1
    assert await here.load_crew_by_id("x") is None
    kept = await there.load_crew_by_id("x")
    assert kept is not None
    assert kept.description == "there"


@pytest.mark.parametrize("name", ["list", "id", "tenants", "", "id:x", "{other}:blog", "a/b", "a\x00b", None])
async def test_a_name_that_would_lead_to_another_key_is_refused_everywhere(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str, name: Any
) -> None:
    await store.save_crew(crew(crew_id="x"))
    keys = await keys_of(client, tenant)
    unchecked = crew()
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
    broken = crew()
    broken.crew_id = crew_id
    assert await store.save_crew(broken) is False
    assert await store.load_crew_by_id(crew_id) is None
    with pytest.raises(errors.InvalidInput, match="crew_id"):
        await strict.load_crew_by_id(crew_id)
    assert await store.list_crews() == []


async def test_a_crew_that_could_not_be_loaded_again_is_not_stored(store: CrewRedis, strict: CrewRedis) -> None:
    for broken in (
        crew(metadata={"o": object()}),
        crew(metadata={"nan": math.nan}),
        crew(metadata={"half": "\ud800"}),
        crew().model_copy(update={"agents": []}),
        crew().model_copy(update={"flow_relations": [FlowRelation(source="writer", target="market_researcher")]}),
        crew().model_copy(update={"created_at": datetime.fromisoformat("2025-01-01T00:00:00")}),
    ):
        assert await store.save_crew(broken) is False
        with pytest.raises(errors.InvalidInput):
            await strict.save_crew(broken)
    assert await store.list_crews() == []


BROKEN = {
    "not-json": (b"{", ""),
    "not-utf8": (b'{"name": "\xff"}', ""),
    "list": (b"[]", ""),
    "naive": (b'{"name": "n", "agents": [{"agent_id": "a"}], "created_at": "2025-01-01T00:00:00"}', "created_at"),
    "unknown-agent": (
        b'{"name": "n", "agents": [{"agent_id": "a"}], "flow_relations": [{"source": "a", "target": "market"}]}',
        "market",
    ),
    "tools": (b'{"name": "n", "agents": [{"agent_id": "a", "tools": "x"}]}', "agents[0].tools"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_record_that_cannot_be_read_is_none_logged_with_its_field_and_skipped(
    client: redis.asyncio.Redis,
    tenant: str,
    caplog: pytest.LogCaptureFixture,
    case: str,
) -> None:
    # As the class connects by itself: text that isn't UTF-8 survives. A strictly decoding client is the next test.
    client.connection_pool.connection_kwargs["encoding_errors"] = "surrogateescape"
    store, strict = CrewRedis(client=client, tenant=tenant), CrewRedis(client=client, tenant=tenant, strict=True)
    record, field = BROKEN[case]
    await store.save_crew(crew("good"))
    await client.set(f"crew:{{{tenant}}}:bad", record)
    await client.sadd(f"crew:{{{tenant}}}:list", "bad")
    with caplog.at_level(logging.WARNING, "watchbill.store.crews"):
        assert await store.load_crew("bad") is None
        assert "'bad'" in caplog.text
        assert field in caplog.text
    assert await store.get_crew_metadata("bad") is None
    assert await store.update_crew_metadata("bad", {"a": 1}) is False
    assert [c.name for c in await store.get_all_crews()] == ["good"]
    assert await store.list_crews() == ["bad", "good"]
    assert await store.crew_exists("bad") is True
    for answer in (strict.load_crew("bad"), strict.get_all_crews(), strict.update_crew_metadata("bad", {})):
        with pytest.raises(errors.InvalidInput) as caught:
            await answer
        assert field in str(caught.value)
        assert caught.value.problems[0].source == f"crew:{{{tenant}}}:bad"
    # Nothing is stuck: it can be replaced, and deleted.
    assert await store.save_crew(crew("bad"))
    await client.set(f"crew:{{{tenant}}}:bad", record)
    assert await store.delete_crew("bad") is True
    assert await store.list_crews() == ["good"]


async def test_what_a_strictly_decoding_client_cannot_read_is_an_answer_too(
    redis_client: redis.asyncio.Redis, tenant: str
) -> None:
    await redis_client.set(f"crew:{{{tenant}}}:bad", b"\xff")
    assert await CrewRedis(client=redis_client, tenant=tenant).load_crew("bad") is None
    with pytest.raises(errors.InvalidInput):
        await CrewRedis(client=redis_client, tenant=tenant, strict=True).load_crew("bad")


@pytest.mark.parametrize("which", ["bad", "list", "id:x"])
async def test_a_key_of_another_program_in_the_way_stops_a_save_before_its_first_write(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str, which: str
) -> None:
    await client.rpush(f"crew:{{{tenant}}}:{which}", "foreign")
    assert await store.save_crew(crew("bad", crew_id="x")) is False
    with pytest.raises(errors.InvalidInput, match="another program"):
        await strict.save_crew(crew("bad", crew_id="x"))
    assert await keys_of(client, tenant) == {f"crew:{{{tenant}}}:{which}"}


async def test_names_without_a_record_leave_the_index(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew("here"))
    await client.sadd(f"crew:{{{tenant}}}:list", "gone", "gone-too")
    assert [c.name for c in await store.get_all_crews()] == ["here"]
    assert await store.list_crews() == ["here"]


async def test_what_isnt_there_is_none_or_false_and_not_found_when_strict(store: CrewRedis, strict: CrewRedis) -> None:
    assert await store.load_crew("no") is None
    assert await store.load_crew_by_id("no") is None
    assert await store.get_crew_metadata("no") is None
    assert await store.update_crew_metadata("no", {"a": 1}) is False
    for answer in (
        strict.load_crew("no"),
        strict.load_crew_by_id("no"),
        strict.get_crew_metadata("no"),
        strict.update_crew_metadata("no", {"a": 1}),
    ):
        with pytest.raises(errors.NotFound, match="'no'"):
            await answer
    assert await strict.crew_exists("no") is False
    assert await strict.list_crews() == []
    assert await strict.get_all_crews() == []
    assert await strict.clear_all_crews() == 0


async def test_many_crews_are_loaded_and_cleared_across_chunks(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    crews = {f"crew-{i:04}": crew(f"crew-{i:04}") for i in range(MANY)}
    base = f"crew:{{{tenant}}}"
    await client.mset({f"{base}:{name}": made.model_dump_json() for name, made in crews.items()})
    await client.mset({f"{base}:id:{made.crew_id}": name for name, made in crews.items()})
    await client.sadd(f"{base}:list", *crews)
    assert {c.name: c for c in await store.get_all_crews()} == crews
    assert await store.list_crews() == sorted(crews)
    await store.save_crew(crew("one-more"))
    assert await store.clear_all_crews() == MANY + 1
    assert await keys_of(client, tenant) == set()


async def test_metadata_is_merged_and_nothing_else_is_touched(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew(metadata={"a": 1, "b": {"deep": 1}}))
    key = f"crew:{{{tenant}}}:blog"
    await client.set(key, json.dumps({**await raw(client, key), "of_a_newer_version": [1]}))
    before = await raw(client, key)
    when = datetime(2025, 12, 12, 10, tzinfo=UTC)
    assert await store.update_crew_metadata("blog", {"b": 2, "c": when, "ü": None}) is True
    after = await raw(client, key)
    assert after.pop("metadata") == {"a": 1, "b": 2, "c": "2025-12-12T10:00:00Z", "ü": None}
    assert after.pop("updated_at") > before.pop("updated_at")
    assert after.pop("record_version") == before.pop("record_version") + 1
    before.pop("metadata")
    assert after == before


@pytest.mark.parametrize("metadata", [{"o": object()}, {"nan": math.inf}, ["a"], "text", None])
async def test_metadata_that_cannot_be_stored_changes_nothing(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str, metadata: Any
) -> None:
    await store.save_crew(crew())
    before = await raw(client, f"crew:{{{tenant}}}:blog")
    assert await store.update_crew_metadata("blog", metadata) is False
    with pytest.raises(errors.InvalidInput):
        await strict.update_crew_metadata("blog", metadata)
    assert await raw(client, f"crew:{{{tenant}}}:blog") == before


async def test_a_save_of_what_has_changed_since_it_was_loaded_is_refused_on_request(
    store: CrewRedis, strict: CrewRedis
) -> None:
    await store.save_crew(crew())
    loaded = await store.load_crew("blog")
    assert loaded is not None
    assert await store.save_crew(loaded, unchanged_since=loaded.updated_at) is True
    assert await store.update_crew_metadata("blog", {"runs": 1})
    again = await store.load_crew("blog")
    assert again is not None
    assert await store.save_crew(loaded, unchanged_since=loaded.updated_at) is False
    with pytest.raises(errors.Conflict, match="Load it again"):
        await strict.save_crew(loaded, unchanged_since=loaded.updated_at)
    assert await store.load_crew("blog") == again
    assert await store.save_crew(loaded) is True  # the seed's save replaces


async def test_no_update_of_many_at_once_is_lost(redis_url: str, tenant: str) -> None:
    writers, each = 40, 3
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        strict = CrewRedis(client=client, tenant=tenant, strict=True)
        await strict.save_crew(crew(metadata={"kept": True}))

        async def write(writer: int) -> None:
            for i in range(each):
                await strict.update_crew_metadata("blog", {f"{writer}.{i}": i})

        await asyncio.gather(*(write(writer) for writer in range(writers)))
        record = await raw(client, f"crew:{{{tenant}}}:blog")
    expected = {f"{writer}.{i}": i for writer in range(writers) for i in range(each)}
    assert record["metadata"] == {"kept": True, **expected}
    assert record["record_version"] == 1 + writers * each


async def test_record_index_and_ids_agree_after_a_storm_of_saves_and_deletes(redis_url: str, tenant: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        store = CrewRedis(client=client, tenant=tenant)

        async def storm(seed: int) -> None:
            for i in range(12):
                name, crew_id = f"crew-{(seed + i) % 3}", f"id-{(seed * i) % 5}"
                await store.save_crew(crew(name, crew_id=crew_id))
                if (seed + i) % 4 == 0:
                    await store.delete_crew(name)
                if seed == i == 7:
                    await store.clear_all_crews()

        await asyncio.gather(*(storm(seed) for seed in range(10)))
        base = f"crew:{{{tenant}}}"
        await store.save_crew(crew("last"))  # so that there is an index
        names: Any = await client.smembers(f"{base}:list")
        ids = {name: (await raw(client, f"{base}:{name}"))["crew_id"] for name in names}
        assert await keys_of(client, tenant) == (
            {f"{base}:list"} | {f"{base}:{name}" for name in names} | {f"{base}:id:{i}" for i in ids.values()}
        )
        for name, crew_id in ids.items():
            assert await client.get(f"{base}:id:{crew_id}") == name


async def test_every_call_gives_the_same_answer_when_its_reply_was_lost(
    redis_client: redis.asyncio.Redis, proxy: Callable[..., Awaitable[Any]], tenant: str
) -> None:
    way = await proxy()
    way.drop_every_reply_once = True
    # Not in db 2 but in the db of the proxy's server: the other client looks at the same keys.
    async with CrewRedis(way.url, tenant=tenant, strict=True) as strict:
        assert await strict.save_crew(crew(crew_id="one"))
        assert await strict.update_crew_metadata("blog", {"a": 1})
        record = await raw(redis_client, f"crew:{{{tenant}}}:blog")
        assert (record["record_version"], record["metadata"]) == (2, {"a": 1})  # each was applied once

        loaded = await strict.load_crew("blog")
        assert loaded is not None
        lost = way.dropped
        assert await strict.save_crew(crew(crew_id="two"), unchanged_since=loaded.updated_at)
        assert await strict.load_crew_by_id("two")
        assert (await raw(redis_client, f"crew:{{{tenant}}}:blog"))["record_version"] == 3
        assert way.dropped >= lost + 2  # of the look and of the save

        lost = way.dropped
        assert await strict.delete_crew("blog") is True
        assert way.dropped > lost
        for name in ("a", "b", "c"):
            await strict.save_crew(crew(name))
        lost = way.dropped
        assert await strict.clear_all_crews() == 3
        assert way.dropped > lost
    assert await keys_of(redis_client, tenant) == set()


@pytest.mark.parametrize("change", ["save", "update", "delete"])
async def test_a_resend_undoes_nothing_that_came_between(
    client: redis.asyncio.Redis, tenant: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CrewRedis(client=client, tenant=tenant, strict=True)
    await other.save_crew(crew(crew_id="first"))
    ours = CrewRedis(client=client, tenant=tenant, strict=True)
    between: Callable[[], Awaitable[Any]] = {
        "save": lambda: other.update_crew_metadata("blog", {"between": True}),
        "update": lambda: other.save_crew(crew(crew_id="between", description="between")),
        "delete": lambda: other.save_crew(crew(crew_id="between", description="between")),
    }[change]
    met: list[bool] = []

    def lossy(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The first script that keeps an answer is sent twice, as when its reply was lost, and another call between."""

        async def call(script: str, count: int, *parts: Any) -> Any:
            reply = await send(script, count, *parts)
            if not met and any(":answer:" in str(part) for part in parts):
                met.append(True)
                await between()
                return await send(script, count, *parts)
            return reply

        return call

    for name in ("eval", "evalsha"):
        monkeypatch.setattr(client, name, lossy(getattr(client, name)))
    if change == "save":
        assert await ours.save_crew(crew(crew_id="ours"))
    elif change == "update":
        assert await ours.update_crew_metadata("blog", {"ours": True})
    else:
        assert await ours.delete_crew("blog") is True
    assert met
    after = await other.load_crew("blog")
    assert after is not None
    expected = ("ours", {"between": True}) if change == "save" else ("between", {})
    assert (after.crew_id, after.metadata) == expected


def meanwhile(client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[Any]]) -> None:
    """Acts once, between what the next change reads and what it writes."""
    send = client.evalsha
    waiting = [act]

    async def late(sha: str, count: int, *parts: Any) -> Any:
        if waiting and any(":answer:" in str(part) for part in parts):
            assert await waiting.pop()()
        return await send(sha, count, *parts)

    monkeypatch.setattr(client, "evalsha", late)


@pytest.mark.parametrize("left_behind", [False, True])
async def test_an_id_that_another_crew_takes_meanwhile_is_refused(
    client: redis.asyncio.Redis,
    strict: CrewRedis,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    left_behind: bool,
) -> None:
    if left_behind:  # then the entry looks the same before and after; only b's record tells
        await client.set(f"crew:{{{tenant}}}:id:mine", "b")
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew("b", crew_id="mine")))
    with pytest.raises(errors.Conflict, match="already used by the crew 'b'"):
        await strict.save_crew(crew("a", crew_id="mine"))
    assert await strict.list_crews() == ["b"]
    assert await strict.load_crew_by_id("mine") == await strict.load_crew("b")


async def test_a_crew_that_changes_while_it_is_deleted_is_deleted_as_it_is_then(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await strict.save_crew(crew(crew_id="old"))
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew(crew_id="new")))
    assert await strict.delete_crew("blog") is True
    assert await keys_of(client, tenant) == set()


async def test_a_crew_that_comes_back_while_the_index_is_mended_stays(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.sadd(f"crew:{{{tenant}}}:list", "blog")
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew()))
    assert await strict.get_all_crews() == []
    assert [c.name for c in await strict.get_all_crews()] == ["blog"]


async def test_a_record_that_claims_the_id_of_another_crew_never_takes_its_entry_away(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str
) -> None:
    await strict.save_crew(crew("b", crew_id="mine"))
    claim = crew("a", crew_id="mine").model_dump_json()
    await client.set(f"crew:{{{tenant}}}:a", claim)  # by hand
    await strict.save_crew(crew("a", crew_id="other"))
    assert await strict.load_crew_by_id("mine")
    await client.set(f"crew:{{{tenant}}}:a", claim)
    await strict.delete_crew("a")
    assert await strict.load_crew_by_id("mine")


async def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with CrewRedis(server.url, strict=True) as strict:
        await strict.save_crew(crew("a"))
        async with redis.asyncio.Redis.from_url(server.url) as admin:
            await admin.script_flush()
        await strict.save_crew(crew("b"))
        assert await strict.list_crews() == ["a", "b"]


async def test_without_a_store_every_answer_is_the_seeds_and_strict_raises(
    private_redis: Callable[[], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    server = await private_redis()
    async with CrewRedis(server.url) as store, CrewRedis(server.url, strict=True) as strict:
        await strict.save_crew(crew())
        await server.kill()

        def calls(on: CrewRedis) -> list[tuple[Awaitable[Any], Any]]:
            return [
                (on.save_crew(crew()), False),
                (on.load_crew("blog"), None),
                (on.load_crew_by_id("x"), None),
                (on.delete_crew("blog"), False),
                (on.list_crews(), []),
                (on.crew_exists("blog"), False),
                (on.get_all_crews(), []),
                (on.get_crew_metadata("blog"), None),
                (on.update_crew_metadata("blog", {}), False),
                (on.clear_all_crews(), 0),
            ]

        for call, expected in calls(store):
            caplog.clear()
            assert await call == expected
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
        for call, _ in calls(strict):
            with pytest.raises(errors.StoreUnavailable) as caught:
                await call
            assert isinstance(caught.value.__cause__, redis.exceptions.RedisError | OSError)
        assert await store.ping() is False
        assert await strict.ping() is False


async def test_a_refusal_that_waiting_cannot_cure_is_not_called_unavailable(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with redis.asyncio.Redis.from_url(server.url) as admin:
        await admin.acl_setuser("default", commands=["-set", "-get"], enabled=True)
    async with CrewRedis(server.url, strict=True) as strict:
        with pytest.raises(errors.UserActionRequired) as caught:
            await strict.load_crew("blog")
    assert isinstance(caught.value.__cause__, redis.exceptions.NoPermissionError)


def free_port() -> int:
    """Below those that the kernel gives to clients, so that none is given it before the server has it."""
    while True:
        port = random.randrange(22_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


async def test_on_a_cluster_the_keys_of_a_tenant_share_a_slot(tmp_path: Path) -> None:
    port, bus_port = free_port(), free_port()
    command = local_server.server_command(local_server.find_server(), tmp_path, Path("cluster.sock"), fsync=None)
    cluster = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, *cluster], cwd=tmp_path, stdout=log, stderr=log)
    try:
        async with redis.asyncio.Redis(port=port, decode_responses=True) as client:
            while not await CrewRedis(client=client).ping():
                assert server.poll() is None, (tmp_path / "log").read_text()
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(await client.execute_command("CLUSTER", "INFO")):
                await asyncio.sleep(0.01)
            for strict in (
                CrewRedis(client=client, tenant="team", strict=True),
                CrewRedis(client=client, key_prefix="{crew}", strict=True),
            ):
                await strict.save_crew(crew(crew_id="one"))
                await strict.save_crew(crew(crew_id="two"))
                await strict.update_crew_metadata("blog", {"a": 1})
                await strict.save_crew(crew("gone"))
                await client.delete(strict._record("gone"))
                assert [c.crew_id for c in await strict.get_all_crews()] == ["two"]
                assert await strict.list_crews() == ["blog"]
                assert await strict.load_crew_by_id("two")
                assert await strict.clear_all_crews() == 1
            with pytest.raises(errors.InvalidInput, match=r"key_prefix='\{crew\}'"):
                await CrewRedis(client=client, strict=True).save_crew(crew())
    finally:
        server.kill()
        server.wait()
