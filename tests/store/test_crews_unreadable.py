"""Crew records that can't be read, and metadata that is merged into them."""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from crew_records import crew_of, keys_of, raw

from watchbill import errors
from watchbill.store.crews import CrewRedis

MANY = 1_100  # more than two chunks

BROKEN = {
    "not-json": (b"{", ""),
    "not-utf8": (b'{"name": "\xff"}', ""),
    "list": (b"[]", ""),
    "no-time": (b'{"name": "n", "agents": [{"agent_id": "a"}], "created_at": "last week"}', "created_at"),
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
    await store.save_crew(crew_of("good"))
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
    assert await store.save_crew(crew_of("bad"))
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


async def test_a_record_that_says_another_name_is_the_crew_of_its_key(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    await store.save_crew(crew_of("a"))
    key = f"crew:{{{tenant}}}:a"
    await client.set(key, json.dumps({**await raw(client, key), "name": "z"}))

    loaded, metadata = await store.load_crew("a"), await store.get_crew_metadata("a")
    assert loaded is not None
    assert metadata is not None
    assert (loaded.name, metadata["name"]) == ("a", "a")
    assert f"the record at {key!r} says that it is the crew 'z'. It is loaded as 'a'" in caplog.text
    assert await store.get_all_crews() == [loaded]
    assert await store.load_crew_by_id(loaded.crew_id) == loaded
    assert await store.load_crew("z") is None
    assert await store.save_crew(loaded)  # mends the record, as does an update
    assert (await raw(client, key))["name"] == "a"
    await client.set(key, json.dumps({**await raw(client, key), "name": "z"}))
    assert await store.update_crew_metadata("a", {"n": 1})
    assert (await raw(client, key))["name"] == "a"
    assert await store.list_crews() == ["a"]


@pytest.mark.parametrize("which", ["bad", "list", "id:x"])
async def test_a_key_of_another_program_in_the_way_stops_a_save_before_its_first_write(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str, which: str
) -> None:
    await client.rpush(f"crew:{{{tenant}}}:{which}", "foreign")
    assert await store.save_crew(crew_of("bad", crew_id="x")) is False
    with pytest.raises(errors.InvalidInput, match="another program"):
        await strict.save_crew(crew_of("bad", crew_id="x"))
    assert await keys_of(client, tenant) == {f"crew:{{{tenant}}}:{which}"}


async def test_another_programs_key_keeps_no_crew_from_being_deleted(
    client: redis.asyncio.Redis, store: CrewRedis, strict: CrewRedis, tenant: str
) -> None:
    record, index = f"crew:{{{tenant}}}:foreign", f"crew:{{{tenant}}}:list"
    await client.rpush(record, "another program's")
    await client.sadd(index, "foreign", "gone")
    for name in ("first", "second"):
        await store.save_crew(crew_of(name))
    assert [crew.name for crew in await store.get_all_crews()] == ["first", "second"]
    assert await store.list_crews() == ["first", "foreign", "second"]  # and "gone" has left it

    assert await store.delete_crew("foreign") is False
    with pytest.raises(errors.InvalidInput, match=r"another program.*:foreign"):
        await strict.delete_crew("foreign")
    assert await store.clear_all_crews() == 2
    with pytest.raises(errors.InvalidInput, match=r"another program.*:foreign"):
        await strict.clear_all_crews()
    assert await client.llen(record) == 1


async def test_names_without_a_record_leave_the_index(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of("here"))
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
    crews = {f"crew-{i:04}": crew_of(f"crew-{i:04}") for i in range(MANY)}
    base = f"crew:{{{tenant}}}"
    await client.mset({f"{base}:{name}": made.model_dump_json() for name, made in crews.items()})
    await client.mset({f"{base}:id:{made.crew_id}": name for name, made in crews.items()})
    await client.sadd(f"{base}:list", *crews)
    assert {c.name: c for c in await store.get_all_crews()} == crews
    assert await store.list_crews() == sorted(crews)
    await store.save_crew(crew_of("one-more"))
    assert await store.clear_all_crews() == MANY + 1
    assert await keys_of(client, tenant) == set()


async def test_metadata_is_merged_and_nothing_else_is_touched(
    client: redis.asyncio.Redis, store: CrewRedis, tenant: str
) -> None:
    await store.save_crew(crew_of(metadata={"a": 1, "b": {"deep": 1}}))
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
    await store.save_crew(crew_of())
    before = await raw(client, f"crew:{{{tenant}}}:blog")
    assert await store.update_crew_metadata("blog", metadata) is False
    with pytest.raises(errors.InvalidInput):
        await strict.update_crew_metadata("blog", metadata)
    assert await raw(client, f"crew:{{{tenant}}}:blog") == before


async def test_a_save_of_what_has_changed_since_it_was_loaded_is_refused_on_request(
    store: CrewRedis, strict: CrewRedis
) -> None:
    await store.save_crew(crew_of())
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
