"""RedisClient and AsyncRedisClient on a real server: values, JSON, expiry, pipelines, outages."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from twins import Twin, ask, entered

from waiting import is_soon, until
from watchbill import connection, messaging
from watchbill.errors import InvalidInput, StoreUnavailable
from watchbill.messaging import RedisConfig

VALUES = [
    {"name": "Alice", "role": "admin"},
    {"nested": {"list": [1, 2.5, None, True, {"deep": "ü€"}]}, "text": "[1]", "number as text": "1"},
    ["half of a pair: \ud800"],
    "text",
    None,
    0,
]


@pytest.fixture
def key() -> str:
    return f"messaging-{uuid.uuid4().hex}"


@pytest.fixture
def client(twin: Twin, redis_url: str) -> Any:
    return twin("RedisClient", redis_url)


async def test_text_bytes_and_numbers_come_back_as_text(client: Any, key: str) -> None:
    found = []
    for value in ("value", "", "ü€", b"bytes", b"\xff", 7, 1.5):
        assert await ask(client.set, key, value) is True
        found.append(await ask(client.get, key))

    assert found == ["value", "", "ü€", "bytes", "\udcff", "7", "1.5"]


async def test_a_key_is_there_until_it_is_deleted(client: Any, key: str) -> None:
    assert await ask(client.exists, key) is False
    assert await ask(client.get, key) is None
    assert await ask(client.get_json, key) is None
    await ask(client.set, key, "")
    assert await ask(client.exists, key) is True
    assert [await ask(client.delete, key) for _ in range(2)] == [True, False]
    assert await ask(client.exists, key) is False


@pytest.mark.parametrize("value", VALUES, ids=str)
async def test_json_comes_back_as_it_was(client: Any, key: str, value: Any) -> None:
    assert await ask(client.set_json, key, value) is True

    assert await ask(client.get_json, key) == value


@pytest.mark.parametrize(
    ("method", "args", "field"),
    [
        ("set", ("", "v"), "key"),
        ("get", (5,), "key"),
        ("get", ("half a pair: \ud83d",), "key"),
        ("set", ("k", "half a pair: \ud83d"), "value"),
        ("set", ("k", {"a": 1}), "value"),
        ("set", ("k", None), "value"),
        ("set", ("k", True), "value"),
        ("set", ("k", float("nan")), "value"),
        ("set", ("k", "v", 0), "expire"),
        ("set", ("k", "v", -1), "expire"),
        ("set", ("k", "v", True), "expire"),
        ("set", ("k", "v", float("inf")), "expire"),
        ("set_json", ("k", {1: "comes back as '1'"}), "value"),
        ("set_json", ("k", [{None: 1}]), "value"),
        ("set_json", ("k", float("nan")), "value"),
        ("set_json", ("k", {1, 2}), "value"),
        ("publish", ("", "m"), "channel"),
        ("publish", ("c", {"when": object()}), "message"),
        ("publish", ("c", "half a pair: \ud83d"), "message"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_name(twin: Twin, method: str, args: Any, field: str) -> None:
    client = twin("RedisClient", "redis://localhost:1")  # nobody is asked

    with pytest.raises(InvalidInput) as caught:
        await ask(getattr(client, method), *args)
    assert caught.value.problems[0].path == field


async def test_a_text_that_is_no_json_is_said_to_be_none(client: Any, key: str) -> None:
    await ask(client.set, key, "plain text")

    with pytest.raises(InvalidInput, match=f"{key}.*holds no JSON"):
        await ask(client.get_json, key)


@pytest.mark.parametrize(("method", "value"), [("set", "v"), ("set_json", {"a": 1})])
@pytest.mark.parametrize(
    ("expire", "least", "most"), [(60, 1, 60_000), (0.5, 1, 500), (timedelta(minutes=4), 60_001, 240_000)]
)
async def test_a_key_expires_at_the_server(
    client: Any, redis_client: Any, key: str, method: str, value: Any, expire: Any, least: int, most: int
) -> None:
    await ask(getattr(client, method), key, value, expire=expire)

    left = await redis_client.pttl(key)
    assert least <= left <= most or (expire == 0.5 and left == -2)  # a busy machine: it has expired already


async def test_a_key_without_expire_stays(client: Any, redis_client: Any, key: str) -> None:
    await ask(client.set, key, "v", expire=60)
    await ask(client.set, key, "v")

    assert await redis_client.pttl(key) == -1


async def test_a_message_is_sent_as_it_is_or_as_json(client: Any, redis_client: Any, key: str) -> None:
    async with redis_client.pubsub(ignore_subscribe_messages=True) as listening:
        await listening.subscribe(key)
        assert await ask(client.publish, key, "text") == 1
        assert await ask(client.publish, key, {"a": [1]}) == 1
        found = [await until(lambda: listening.get_message(timeout=1)) for _ in range(2)]

    assert [message["data"] for message in found] == ["text", '{"a":[1]}']
    assert await ask(client.publish, key + "-nobody", "text") == 0


async def test_a_pipeline_is_done_at_the_end_of_its_block(client: Any, key: str) -> None:
    async with entered(client.pipeline()) as pipe:
        pipe.set(key, "1")
        pipe.incr(key)
        assert await ask(client.get, key) is None
    assert await ask(client.get, key) == "2"

    async with entered(client.pipeline()) as pipe:
        pipe.incr(key)
        assert await ask(pipe.execute) == [3]
    assert await ask(client.get, key) == "3"


async def test_a_pipeline_is_dropped_when_its_block_raises(client: Any, key: str) -> None:
    async def fill() -> None:
        async with entered(client.pipeline()) as pipe:
            pipe.set(key, "1")
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):  # which is no outage of the store
        await fill()
    assert await ask(client.exists, key) is False


async def test_an_outage_raises_and_is_no_answer(twin: Twin, private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    client = twin("RedisClient", server.url)
    await ask(client.set, "k", "v")
    assert await ask(client.health_check) is True
    await server.kill()

    for method, *args in ((client.get, "k"), (client.set, "k", "w"), (client.publish, "k", "m")):
        with pytest.raises(StoreUnavailable):
            await ask(method, *args)
    with pytest.raises(StoreUnavailable):
        async with entered(client.pipeline()) as pipe:
            pipe.set("k", "w")
    assert await ask(client.health_check) is False
    await server.restart()
    assert await ask(client.health_check) is True
    assert await ask(client.get, "k") == "v"


async def test_a_server_that_stands_still_is_not_healthy(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await private_redis()
    client = twin("RedisClient", server.url)
    assert await ask(client.health_check) is True
    monkeypatch.setattr("watchbill.messaging.client.HEALTH_SECONDS", 0.5)
    server.pause()
    try:

        async def check() -> None:
            assert await ask(client.health_check) is False

        assert await is_soon(check, 8), "a command waits for 10 s, and is sent again after that"
    finally:
        server.resume()


async def test_a_key_of_another_type_is_no_outage(client: Any, redis_client: Any, key: str) -> None:
    await redis_client.rpush(key, "a")

    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await ask(client.get, key)


async def test_a_lost_reply_is_asked_for_again(twin: Twin, proxy: Callable[..., Awaitable[Any]], key: str) -> None:
    way = await proxy()
    client = twin("RedisClient", way.url)
    await ask(client.set, key, "v")
    way.drop_next_reply()

    assert await ask(client.get, key) == "v"
    assert way.dropped == 1


async def test_an_existing_client_is_used_and_stays_open(twin: Twin, redis_url: str, key: str) -> None:
    given: Any = connection.connect(redis_url) if twin.is_async else connection.connect_sync(redis_url)
    kind = messaging.AsyncRedisClient if twin.is_async else messaging.RedisClient
    async with entered(kind(client=given)) as client:
        await ask(client.set, key, "v")
        assert client.client is given
        assert await ask(client.health_check) is True

    assert await ask(kind(client=given).get, key) == "v"
    await ask(given.aclose if twin.is_async else given.close)


async def test_the_environment_names_the_server(
    twin: Twin, redis_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_REDIS_URL", redis_url)

    assert await ask(twin("RedisClient").set, key, "v") is True


@pytest.mark.pure
def test_without_a_name_it_is_the_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHBILL_REDIS_URL", raising=False)

    for client in (messaging.RedisClient(), messaging.AsyncRedisClient(), messaging.RedisClient(RedisConfig())):
        options = client.client.connection_pool.connection_kwargs
        assert (options["host"], options["port"], options.get("db")) in [
            ("localhost", 6379, 0),
            ("localhost", 6379, None),
        ]


@pytest.mark.pure
@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"host": "redis.example", "port": 6380, "db": 3}, "redis://redis.example:6380/3"),
        ({"host": "::1", "ssl": True}, "rediss://[::1]:6379/0"),
        ({"username": "ann", "password": "p@ss/w:rd"}, "redis://localhost:6379/0"),
        ({"url": "redis+cluster://one:1,two:2"}, "redis+cluster://one:1,two:2"),
        ({"url": "redis://:s3cret@one:1/2"}, "redis://one:1/2"),
    ],
)
def test_a_config_shows_its_server_and_no_secret(options: dict[str, Any], url: str) -> None:
    config = RedisConfig(**options)

    assert repr(config) == f"RedisConfig(url={url!r})"
    assert config.target().options.get("password") == options.get(
        "password", "s3cret" if "s3cret" in str(options) else None
    )


@pytest.mark.pure
@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"port": "6379"}, "port"),
        ({"db": -1}, "db"),
        ({"url": "redis://one", "port": 7}, "url"),
        ({"url": "http://one"}, "is not the URL of a Redis"),
    ],
)
def test_a_config_that_names_no_server_is_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        RedisConfig(**options)


@pytest.mark.pure
@pytest.mark.parametrize("name", [name for name in messaging.__all__ if name.startswith("Async")])
def test_the_twins_have_the_same_methods_and_arguments(name: str) -> None:
    ours, twins_ = getattr(messaging, name), getattr(messaging, name.removeprefix("Async"))

    def methods(kind: Any) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    of_ours, of_twins = methods(ours), methods(twins_)
    if "run_in_thread" in of_twins:
        del of_twins["run_in_thread"], of_ours["run_in_task"]
    assert of_ours == of_twins


async def test_a_client_or_handler_of_the_wrong_kind_is_refused_at_once(twin: Twin, redis_url: str) -> None:
    wrong = Twin(is_async=not twin.is_async)("RedisClient", redis_url)
    makers: list[tuple[Any, ...]] = [
        ("RedisStream", "s"),
        ("RedisLock", "l", 10),
        ("RedisRateLimiter", "r", 1, 1),
        ("RedisPubSub",),
    ]
    for name, *args in makers:
        for client in (redis_url, 7, wrong):
            with pytest.raises(InvalidInput) as refused:
                twin(name, *args, client=client)
            assert [(one.path, "RedisClient(url)" in one.fix) for one in refused.value.problems] == [("client", True)]
    stream, pubsub = twin("RedisStream", "s", url=redis_url), twin("RedisPubSub", url=redis_url)
    for call in ((stream.process_messages, None), (pubsub.subscribe, "c", "print")):
        with pytest.raises(InvalidInput) as refused:
            await ask(*call)
        assert [one.path for one in refused.value.problems] == ["handler"]
    await ask(wrong.close)
