"""Dead letters of a stream: they are replayed to the group that has given them up, and purged."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from twins import Twin, ask

from waiting import until
from watchbill import message_names
from watchbill.errors import InvalidInput


@pytest.fixture
async def stream(twin: Twin, redis_url: str) -> Any:
    """A stream whose group `workers` has given up its three messages, and whose group `watchers` has done them."""
    stream = twin("RedisStream", f"stream-{uuid.uuid4().hex}", url=redis_url, retry_after=0.001, max_deliveries=1)
    for n in range(3):
        await ask(stream.add, {"n": n, "deep": [n]})
    await ask(stream.create_consumer_group, "watchers", "watcher-1")
    await ask(stream.acknowledge, *(message["id"] for message in await ask(stream.read_group)))
    await ask(stream.create_consumer_group, "workers", "worker-1")
    assert len(await ask(stream.read_group)) == 3

    async def are_given_up() -> bool:
        await ask(stream.read_group)
        return len(await ask(stream.dead_letters)) == 3

    await until(are_given_up)
    return stream


async def test_a_replayed_letter_comes_to_its_group_alone_with_all_its_deliveries(stream: Any) -> None:
    first, second, third = await ask(stream.dead_letters)
    ids = [second["id"], "1-1", first["id"], second["id"]]
    assert await ask(stream.replay_dead_letters, *ids) == [second["id"], first["id"]]
    assert await ask(stream.dead_letters) == [third]

    again = await until(lambda: ask(stream.read_group))
    assert again == [{"id": letter["message_id"], "data": letter["data"]} for letter in (first, second)]
    stream.join("watchers", "watcher-1")
    assert await ask(stream.read_group) == []
    stream.join("workers", "worker-1")
    letters = await until(lambda: given_up_again(stream, 3))
    assert [letter["deliveries"] for letter in letters] == [1] * 3


async def given_up_again(stream: Any, count: int) -> Any:
    assert await ask(stream.read_group) == []
    letters = await ask(stream.dead_letters)
    return letters if len(letters) == count else None


async def test_a_message_that_the_stream_has_given_up_is_added_anew(stream: Any, redis_client: Any) -> None:
    key, [first, *_] = stream._core.key, await ask(stream.dead_letters)
    await redis_client.xtrim(key, maxlen=0)
    assert await ask(stream.replay_dead_letters, first["id"]) == [first["id"]]

    for group in ("workers", "watchers"):
        stream.join(group, "one")
        [message] = await ask(stream.read_group)
        assert message["data"] == {"n": 0, "deep": [0]}
        assert message["id"] != first["message_id"]


async def test_a_letter_of_a_group_that_has_gone_stays(stream: Any, redis_client: Any) -> None:
    letters = await ask(stream.dead_letters)
    ids = [letter["id"] for letter in letters]
    await redis_client.xgroup_destroy(stream._core.key, "workers")
    assert await ask(stream.replay_dead_letters, *ids) == []
    await redis_client.delete(stream._core.key)
    assert await ask(stream.replay_dead_letters, *ids) == []
    assert await ask(stream.dead_letters) == letters


@pytest.mark.parametrize("odd", ["", "many", "-", "9" * 5000])
async def test_what_another_program_has_put_among_the_letters_hides_no_other(
    stream: Any, redis_client: Any, odd: str
) -> None:
    letters = await ask(stream.dead_letters)
    await redis_client.xadd(stream._core.dead, {message_names.LETTER_DELIVERIES: odd})
    *before, last = await ask(stream.dead_letters)
    assert (before, last["deliveries"]) == (letters, 0)


async def test_many_are_replayed_and_the_rest_purged(stream: Any) -> None:
    ids = [letter["id"] for letter in await ask(stream.dead_letters)]
    assert await ask(stream.replay_dead_letters, *[f"1-{n + 1}" for n in range(150)], ids[0]) == ids[:1]
    assert await ask(stream.purge_dead_letters) == 2
    assert await ask(stream.dead_letters) == []
    assert await ask(stream.purge_dead_letters) == 0
    assert await ask(stream.replay_dead_letters) == []
    with pytest.raises(InvalidInput) as refused:
        await ask(stream.replay_dead_letters, "first")
    assert refused.value.problems[0].path == "id"


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nobody can read it")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unreadable(), "Unreadable: its text can't be read: RuntimeError"),
        (ValueError("half a pair: \ud800"), "ValueError: half a pair: ?"),
        (ValueError("the key is A-key-that-nobody-may-see"), "ValueError: the key is [redacted SERVICE_KEY]"),
        (ValueError("x" * 2_000_000), "ValueError: " + "x" * 988),
    ],
    ids=["unreadable", "no text", "a secret", "long"],
)
async def test_whatever_a_handler_raises_is_kept_as_short_text_without_secrets(
    twin: Twin, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: Any, error: Exception, said: str
) -> None:
    monkeypatch.setenv("SERVICE_KEY", "A-key-that-nobody-may-see")
    stream = twin("RedisStream", f"stream-{uuid.uuid4().hex}", url=redis_url, max_deliveries=1)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    await ask(stream.add, {"n": 1})

    def handler(_: Any) -> None:
        raise error

    assert await ask(stream.process_messages, handler, limit=1) == 0
    [letter] = await ask(stream.dead_letters)
    assert letter["error"] == said
    assert "A-key-that-nobody-may-see" not in caplog.text


async def test_a_large_message_is_not_kept_twice_and_can_be_replayed(twin: Twin, redis_url: str) -> None:
    stream = twin("RedisStream", f"stream-{uuid.uuid4().hex}", url=redis_url, max_deliveries=1)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    large, small = {"text": "x" * 1_048_576, "n": 1}, {"text": "x" * 1000, "n": 2}
    for data in (large, small):
        await ask(stream.add, data)

    def handler(_: Any) -> None:
        raise ValueError("not today")

    await ask(stream.process_messages, handler, limit=2)
    of_large, of_small = await ask(stream.dead_letters)
    assert (of_large["data"], of_small["data"]) == ({}, small)
    why = "It is too large for a copy (3 fields, 1048594 bytes), and is still in the stream. ValueError: not today"
    assert (of_large["error"], of_small["error"]) == (why, "ValueError: not today")
    assert await ask(stream.replay_dead_letters, of_large["id"]) == [of_large["id"]]
    [message] = await until(lambda: ask(stream.read_group))
    assert message == {"id": of_large["message_id"], "data": large}
