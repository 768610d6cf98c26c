"""RedisCache on a real server: histories, the recent view, their bounds, expiry and removal."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from watchbill import connection
from watchbill.errors import InvalidInput, StoreUnavailable
from watchbill.network import RedisCache

VALUES: list[Any] = [
    {"nested": {"list": [1, None, True, "ü€"]}},
    [1, {"a": "b"}],
    "text",
    "",
    '{"a": "text that looks like JSON"}',
    " [1]",
    '"quoted"',
    "{no JSON",
    "half of a pair \ud800",
]


@pytest.fixture
def prefix() -> str:
    return f"cache-{uuid.uuid4().hex}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with connection.connected(redis_url) as made:
        yield made


@pytest.fixture
def cache(client: Any, prefix: str) -> RedisCache:
    return RedisCache(client=client, prefix=prefix)


async def filled(cache: RedisCache, *agents: str, count: int = 3) -> None:
    """`a0`, `b0`, `a1`, `b1` … for the agents a and b."""
    for n in range(count):
        for agent in agents:
            await cache.append_response(agent, f"{agent}{n}")


# ---------------------------------------------------------------- values, and what is asked for


async def test_values_come_back_in_both_views(cache: RedisCache) -> None:
    for value in VALUES:
        await cache.append_response("alice", value)

    assert await cache.get_responses("alice") == VALUES
    assert await cache.get_last_responses(100) == VALUES[::-1]


async def test_what_is_no_dict_and_no_list_is_kept_as_its_text(cache: RedisCache) -> None:
    for value in (7, 1.5, True, None, (1, 2)):
        await cache.append_response("alice", value)

    assert await cache.get_responses("alice") == ["7", "1.5", "True", "None", "(1, 2)"]


async def test_keys_and_types_are_those_of_the_documents(cache: RedisCache, client: Any, prefix: str) -> None:
    for value in ({"a": 1}, "text"):
        await cache.append_response("alice", value)

    assert await client.lrange(f"{prefix}alice", 0, -1) == ['{"a":1}', "text"]
    seconds, micros = await client.time()
    members = await client.zrange(f"{prefix}timestamps", 0, -1, withscores=True)
    assert [set(json.loads(member)) for member, _ in members] == [{"agent", "id", "value"}] * 2
    assert [json.loads(member)["value"] for member, _ in members] == [{"a": 1}, "text"]
    assert members[0][1] < members[1][1] <= int(seconds) + int(micros) / 1e6
    assert sorted(await client.keys(f"{prefix}*")) == [f"{prefix}{name}" for name in ("agents", "alice", "timestamps")]


async def test_the_newest_of_a_history_and_none_of_it(cache: RedisCache) -> None:
    await filled(cache, "a", count=5)

    assert await cache.get_responses("a", last_n=2) == ["a3", "a4"]
    assert await cache.get_responses("a", 99) == ["a0", "a1", "a2", "a3", "a4"]
    assert await cache.get_responses("a", last_n=0) == []
    assert await cache.get_responses("nobody") == []


async def test_the_recent_view_is_newest_first_and_two_equal_texts_are_two(cache: RedisCache) -> None:
    await filled(cache, "a", "b", count=2)
    await cache.append_response("b", "a0")

    assert await cache.get_last_responses(3) == ["a0", "b1", "a1"]
    assert await cache.get_last_responses(99) == ["a0", "b1", "a1", "b0", "a0"]
    assert await cache.get_last_responses(0) == []


async def test_random_responses_are_of_all_agents_and_each_comes_once(cache: RedisCache) -> None:
    await filled(cache, "a", "b", count=10)
    everything = {f"{agent}{n}" for agent in "ab" for n in range(10)}

    assert await cache.get_random_responses(0) == []
    some = await cache.get_random_responses(5)
    assert len(some) == len(set(some)) == 5
    assert set(await cache.get_random_responses(99)) == everything
    assert any([await cache.get_random_responses(5) != some for _ in range(20)])


# ---------------------------------------------------------------- bounds and expiry


async def test_history_and_recent_view_are_bounded(client: Any, prefix: str) -> None:
    cache = RedisCache(client=client, prefix=prefix, max_history=2, max_recent=3)
    await filled(cache, "a", "b", count=4)

    assert await cache.get_responses("a") == ["a2", "a3"]
    assert await cache.get_last_responses(99) == ["b3", "a3", "b2"]


async def filled_at_once(client: Any, prefix: str, agents: str, count: int) -> None:
    """Many responses, without waiting for each."""
    members = [json.dumps({"agent": agents[n % len(agents)], "id": str(n), "value": str(n)}) for n in range(count)]
    compact = [member.replace(": ", ":").replace(", ", ",") for member in members]
    await client.zadd(f"{prefix}timestamps", {member: n for n, member in enumerate(compact)})
    for agent in agents:
        await client.rpush(f"{prefix}{agent}", *(n for n in range(count) if agents[n % len(agents)] == agent))


async def test_no_bound_is_no_bound(client: Any, prefix: str) -> None:
    cache = RedisCache(client=client, prefix=prefix, max_history=None, max_recent=None)
    await filled_at_once(client, prefix, "a", 10_100)
    await cache.append_response("a", "one more")

    assert len(await cache.get_responses("a")) == 10_101
    assert len(await cache.get_last_responses(99_999)) == 10_101


async def test_the_bounds_are_1000_and_10_000_by_default(cache: RedisCache, client: Any, prefix: str) -> None:
    await filled_at_once(client, prefix, "a", 10_100)
    await cache.append_response("a", "one more")

    assert len(await cache.get_responses("a")) == 1000
    assert len(await cache.get_last_responses(99_999)) == 10_000


async def test_a_history_that_expires_takes_its_recent_entries_along(
    cache: RedisCache, client: Any, prefix: str
) -> None:
    await filled(cache, "a", "b", count=1)
    await cache.append_response("a", "a1", expire=0.05)
    left = await client.pttl(f"{prefix}a")
    assert left == -2 or 0 < left <= 50, "it has an end, which a slow machine is past"
    assert await client.pttl(f"{prefix}b") == -1

    async with asyncio.timeout(180):
        while await cache.get_responses("a"):
            await asyncio.sleep(0.01)
    assert await cache.get_last_responses(99) == ["b0"]
    assert await client.zrange(f"{prefix}agents", 0, -1) == ["b"]
    await cache.append_response("a", "a2")
    assert await cache.get_last_responses(99) == ["a2", "b0"]
    assert await client.pttl(f"{prefix}a") == -1


async def test_an_append_after_expiry_begins_anew_and_one_before_keeps_the_time(
    cache: RedisCache, client: Any, prefix: str
) -> None:
    await cache.append_response("a", "a0", expire=0.05)
    await cache.append_response("b", "b0")
    async with asyncio.timeout(180):
        while await client.exists(f"{prefix}a"):
            await asyncio.sleep(0.01)
    await cache.append_response("a", "a1", expire=60)
    await cache.append_response("a", "a2")

    assert 0 < await client.ttl(f"{prefix}a") <= 60
    assert await cache.get_responses("a") == ["a1", "a2"]
    assert await cache.get_random_responses(0) == []
    assert sorted(await cache.get_random_responses(99)) == ["a1", "a2", "b0"]


async def test_an_append_of_another_agent_removes_what_has_expired(cache: RedisCache, client: Any, prefix: str) -> None:
    await cache.append_response("a", "a0", expire=0.01)
    async with asyncio.timeout(180):
        while await client.zscore(f"{prefix}agents", "a"):
            await cache.append_response("b", "b")
    assert set(await cache.get_last_responses(999)) == {"b"}


# ---------------------------------------------------------------- removal, and names


async def test_clear_removes_an_agent_from_both_views_and_nobody_else(cache: RedisCache, client: Any) -> None:
    await filled(cache, "al", "alice", '"al"', count=2)
    await cache.append_response("bob", {"agent": "al", "id": "1"})
    await cache.clear("al")

    assert await cache.get_responses("al") == []
    assert await cache.get_responses("alice") == ["alice0", "alice1"]
    assert await cache.get_last_responses(99) == [{"agent": "al", "id": "1"}, '"al"1', "alice1", '"al"0', "alice0"]
    await cache.clear("nobody")


async def test_clear_reads_a_large_recent_view_page_by_page(cache: RedisCache, client: Any, prefix: str) -> None:
    await filled_at_once(client, prefix, "ab", 2500)
    await cache.clear("a")

    assert await cache.get_last_responses(9999) == [str(n) for n in range(2499, 0, -2)]
    assert len(await cache.get_responses("b")) == 1250


async def test_clear_all_removes_this_cache_and_no_other_key(
    cache: RedisCache, client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from watchbill.network import cache as module

    monkeypatch.setattr(module, "_AT_ONCE", 2)
    await filled(cache, "a", "b", "c", "timestamps", "agents", count=1)
    await client.set(f"{prefix}another program's", "1")
    await cache.clear_all()

    assert await client.keys(f"{prefix}*") == [f"{prefix}another program's"]
    assert await cache.get_last_responses(9) == await cache.get_random_responses(9) == []
    await cache.clear_all()


async def test_an_agent_may_be_called_like_a_key_beside_the_lists(cache: RedisCache) -> None:
    agents = ("timestamps", "timestamps:", "timestamps::", "agents", "agents:", "a:b", ":")
    await filled(cache, *agents, count=2)

    for agent in agents:
        assert await cache.get_responses(agent) == [f"{agent}0", f"{agent}1"]
    assert len(await cache.get_last_responses(99)) == 2 * len(agents)
    await cache.clear("timestamps")
    assert len(await cache.get_last_responses(99)) == 2 * len(agents) - 2


# ---------------------------------------------------------------- faults and errors


async def test_a_lost_answer_doubles_nothing(proxy: Any, prefix: str) -> None:
    way = await proxy()
    async with connection.connected(way.url) as client:
        cache = RedisCache(client=client, prefix=prefix)
        way.drop_every_reply_once = True
        await filled(cache, "a", "b", count=2)
        assert await cache.get_responses("a") == ["a0", "a1"]
        assert await cache.get_last_responses(9) == ["b1", "a1", "b0", "a0"]
        await cache.clear("a")
        assert await cache.get_last_responses(9) == ["b1", "b0"]
        assert way.dropped > 6


async def test_an_outage_raises(private_redis: Any, prefix: str) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        cache = RedisCache(client=client, prefix=prefix)
        await cache.append_response("a", "a0")
        await server.kill()
        for call in (
            cache.append_response("a", "a1"),
            cache.get_responses("a"),
            cache.get_last_responses(1),
            cache.get_random_responses(1),
            cache.clear("a"),
            cache.clear_all(),
        ):
            with pytest.raises(StoreUnavailable):
                await call


async def test_no_call_looks_through_the_keys_of_the_server(private_redis: Any, prefix: str) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        cache = RedisCache(client=client, prefix=prefix)
        await client.config_resetstat()
        await filled(cache, "a", "b", count=2)
        assert await cache.get_responses("a") == ["a0", "a1"]
        assert len(await cache.get_last_responses(9)) == len(await cache.get_random_responses(9)) == 4
        await cache.clear("a")
        await cache.clear_all()
        called = {name.removeprefix("cmdstat_") for name in await client.info("commandstats")}
    assert "zadd" in called
    assert called.isdisjoint({"scan", "keys", "randomkey"})


async def test_a_server_that_stands_still_does_not_hold_up_the_loop_of_a_cache(private_redis: Any, prefix: str) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        cache = RedisCache(client=client, prefix=prefix)
        await cache.append_response("a", "a0")
        server.pause()
        calls = [asyncio.create_task(call) for call in (cache.append_response("a", "a1"), cache.get_responses("b"))]
        for _ in range(20):
            await asyncio.sleep(0.001)  # others go on
        assert not any(call.done() for call in calls)
        server.resume()
        assert await asyncio.gather(*calls) == [None, []]


async def test_a_server_of_its_own_by_host_and_port_is_closed_and_a_given_client_is_not(
    redis_url: str, client: Any
) -> None:
    async with RedisCache(port=1) as cache:
        with pytest.raises(StoreUnavailable):
            await cache.get_last_responses(1)
    async with RedisCache(client=client):
        pass
    assert await client.ping()


async def test_values_and_numbers_that_are_none_are_refused_and_nothing_is_stored(
    cache: RedisCache, client: Any, prefix: str
) -> None:
    for call, path in (
        (cache.append_response("a", {"x": b"bytes"}), "value"),
        (cache.append_response("a", {1: "a"}), "value"),
        (cache.append_response("", "a"), "agent_id"),
        (cache.append_response("\ud800", "a"), "agent_id"),
        (cache.append_response("a", "a", expire=0), "expire"),
        (cache.get_responses("a", -1), "last_n"),
        (cache.get_last_responses(-1), "sample_size"),
        (cache.get_random_responses(1.5), "sample_size"),  # type: ignore[arg-type]
        (cache.clear(""), "agent_id"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await call
        assert refused.value.problems[0].path == path
    for options, path in (
        ({"max_history": 0}, "max_history"),
        ({"max_recent": 0}, "max_recent"),
        ({"prefix": ""}, "prefix"),
    ):
        with pytest.raises(InvalidInput) as refused:
            RedisCache(client=client, **options)
        assert refused.value.problems[0].path == path
    assert await client.keys(f"{prefix}*") == []


async def test_what_the_original_wrote_can_be_read(cache: RedisCache, client: Any, prefix: str) -> None:
    await client.rpush(f"{prefix}a", '{"a": 1}', "text", "[no JSON")
    await client.zadd(f"{prefix}timestamps", {'{"a": 1}': 1.5, "text": 2.5, '["b"]': 3.5})

    assert await cache.get_responses("a") == [{"a": 1}, "text", "[no JSON"]
    assert await cache.get_last_responses(9) == [["b"], "text", {"a": 1}]
    await cache.append_response("a", "new")
    assert (await cache.get_last_responses(9))[0] == "new"


async def test_no_entry_is_before_one_that_came_earlier(cache: RedisCache, client: Any, prefix: str) -> None:
    await client.zadd(
        f"{prefix}timestamps", {'{"agent":"b","id":"1","value":"of the future"}': 4e9}
    )  # a clock was wrong
    await filled(cache, "a", count=2)

    assert await cache.get_last_responses(9) == ["a1", "a0", "of the future"]
