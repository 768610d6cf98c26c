"""Crew records that many change at once, and calls whose replies are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from crew_records import crew_of, keys_of, raw

from watchbill import errors
from watchbill.store.crews import CrewRedis


async def test_no_update_of_many_at_once_is_lost(redis_url: str, tenant: str) -> None:
    writers, each = 40, 3
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        strict = CrewRedis(client=client, tenant=tenant, strict=True)
        await strict.save_crew(crew_of(metadata={"kept": True}))

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
                await store.save_crew(crew_of(name, crew_id=crew_id))
                if (seed + i) % 4 == 0:
                    await store.delete_crew(name)
                if seed == i == 7:
                    await store.clear_all_crews()

        await asyncio.gather(*(storm(seed) for seed in range(10)))
        base = f"crew:{{{tenant}}}"
        await store.save_crew(crew_of("last"))  # so that there is an index
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
        assert await strict.save_crew(crew_of(crew_id="one"))
        assert await strict.update_crew_metadata("blog", {"a": 1})
        record = await raw(redis_client, f"crew:{{{tenant}}}:blog")
        assert (record["record_version"], record["metadata"]) == (2, {"a": 1})  # each was applied once

        loaded = await strict.load_crew("blog")
        assert loaded is not None
        lost = way.dropped
        assert await strict.save_crew(crew_of(crew_id="two"), unchanged_since=loaded.updated_at)
        assert await strict.load_crew_by_id("two")
        assert (await raw(redis_client, f"crew:{{{tenant}}}:blog"))["record_version"] == 3
        assert way.dropped >= lost + 2  # of the look and of the save

        lost = way.dropped
        assert await strict.delete_crew("blog") is True
        assert way.dropped > lost
        for name in ("a", "b", "c"):
            await strict.save_crew(crew_of(name))
        lost = way.dropped
        assert await strict.clear_all_crews() == 3
        assert way.dropped > lost
    assert await keys_of(redis_client, tenant) == set()


@pytest.mark.parametrize("change", ["save", "update", "delete"])
async def test_a_resend_undoes_nothing_that_came_between(
    client: redis.asyncio.Redis, tenant: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CrewRedis(client=client, tenant=tenant, strict=True)
    await other.save_crew(crew_of(crew_id="first"))
    ours = CrewRedis(client=client, tenant=tenant, strict=True)
    between: Callable[[], Awaitable[Any]] = {
        "save": lambda: other.update_crew_metadata("blog", {"between": True}),
        "update": lambda: other.save_crew(crew_of(crew_id="between", description="between")),
        "delete": lambda: other.save_crew(crew_of(crew_id="between", description="between")),
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
        assert await ours.save_crew(crew_of(crew_id="ours"))
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
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew_of("b", crew_id="mine")))
    with pytest.raises(errors.Conflict, match="already used by the crew 'b'"):
        await strict.save_crew(crew_of("a", crew_id="mine"))
    assert await strict.list_crews() == ["b"]
    assert await strict.load_crew_by_id("mine") == await strict.load_crew("b")


async def test_a_crew_that_changes_while_it_is_deleted_is_deleted_as_it_is_then(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await strict.save_crew(crew_of(crew_id="old"))
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew_of(crew_id="new")))
    assert await strict.delete_crew("blog") is True
    assert await keys_of(client, tenant) == set()


async def test_a_crew_that_comes_back_while_the_index_is_mended_stays(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.sadd(f"crew:{{{tenant}}}:list", "blog")
    meanwhile(client, monkeypatch, lambda: strict.save_crew(crew_of()))
    assert await strict.get_all_crews() == []
    assert [c.name for c in await strict.get_all_crews()] == ["blog"]


async def test_a_record_that_claims_the_id_of_another_crew_never_takes_its_entry_away(
    client: redis.asyncio.Redis, strict: CrewRedis, tenant: str
) -> None:
    await strict.save_crew(crew_of("b", crew_id="mine"))
    claim = crew_of("a", crew_id="mine").model_dump_json()
    await client.set(f"crew:{{{tenant}}}:a", claim)  # by hand
    await strict.save_crew(crew_of("a", crew_id="other"))
    assert await strict.load_crew_by_id("mine")
    await client.set(f"crew:{{{tenant}}}:a", claim)
    await strict.delete_crew("a")
    assert await strict.load_crew_by_id("mine")


async def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with CrewRedis(server.url, strict=True) as strict:
        await strict.save_crew(crew_of("a"))
        async with redis.asyncio.Redis.from_url(server.url) as admin:
            await admin.script_flush()
        await strict.save_crew(crew_of("b"))
        assert await strict.list_crews() == ["a", "b"]
