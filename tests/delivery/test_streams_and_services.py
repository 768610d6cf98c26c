"""The channels redisStream and apprise, and what holds for every channel."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from receivers import Receiver, destination, message, raw

from watchbill import names
from watchbill.connection import connected
from watchbill.delivery import Delivered, Sender
from watchbill.errors import DeliveryRefused, NotDelivered

Make = Callable[..., Sender]


@pytest.fixture
def stream() -> str:
    return f"results:{uuid.uuid4().hex}"


def to_stream(stream: str, **more: Any) -> Any:
    return destination(redisStream={"stream": stream, **more})


async def test_a_result_is_on_the_stream_once_however_often_it_is_sent(
    redis_url: str, redis_client: redis.asyncio.Redis, sender: Make, stream: str
) -> None:
    async with connected(redis_url) as store:
        sends = sender(store=store)
        assert await sends.send(message(), to_stream(stream)) == Delivered()
        again = await sends.send(message(attempt=2), to_stream(stream))
        assert again == Delivered(detail="an earlier attempt has added it")
        await sends.send(message(delivery_id="t2.ops", task_id="t2"), to_stream(stream))
    found: Any = await redis_client.xrange(stream)
    entries = [fields for _, fields in found]
    assert [(fields["task_id"], fields["delivery_id"]) for fields in entries] == [("t1", "t1.ops"), ("t2", "t2.ops")]
    assert json.loads(entries[0]["payload"]) == message().payload()
    assert 0 < await redis_client.ttl(names.delivered(stream)) <= 7 * 24 * 3600
    assert await redis_client.ttl(stream) == -1


async def test_a_lost_reply_adds_nothing_twice(
    proxy: Any, redis_client: redis.asyncio.Redis, sender: Make, stream: str
) -> None:
    way = await proxy()
    way.drop_every_reply_once = True
    async with connected(way.url) as store:
        await sender(store=store).send(message(), to_stream(stream))
    assert way.dropped > 0
    assert await redis_client.xlen(stream) == 1


async def test_stream_and_memory_of_it_are_bounded(
    redis_url: str, redis_client: redis.asyncio.Redis, sender: Make, stream: str
) -> None:
    async with connected(redis_url) as store:
        sends = sender(store=store)
        for i in range(250):
            await sends.send(message(delivery_id=f"d{i}"), to_stream(stream, maxLength=10))
    assert 10 <= await redis_client.xlen(stream) <= 110  # Redis removes whole nodes of 100 entries
    remembered = await redis_client.zrange(names.delivered(stream), 0, -1)
    assert remembered == [f"d{i}" for i in range(240, 250)]


async def test_a_key_that_is_no_stream_and_a_store_that_is_away(
    redis_url: str, redis_client: redis.asyncio.Redis, sender: Make, stream: str
) -> None:
    await redis_client.set(stream, "a text", ex=60)
    async with connected(redis_url) as store:
        with pytest.raises(DeliveryRefused, match=r"stream 'results:.*WRONGTYPE"):
            await sender(store=store).send(message(), to_stream(stream))
    assert await redis_client.exists(names.delivered(stream)) == 0
    async with connected("redis://127.0.0.1:1") as away:
        with pytest.raises(NotDelivered, match="the store doesn't answer as it should"):
            await sender(store=away).send(message(), to_stream(stream))
    with pytest.raises(NotDelivered, match="there is no store here"):
        await sender().send(message(), to_stream(stream))


# ---------------------------------------------------------------- apprise

apprise_loads_old_modules = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SERVICE = destination(apprise={"url": "env:SERVICE"})
HIDDEN = "h1dd3nt0k3n"
ALLOWED = {"delivery_allow": "loopback, Apprise"}


@apprise_loads_old_modules
async def test_any_service_of_apprise_can_be_notified(
    receiver: Receiver, sender: Make, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets["SERVICE"] = f"{receiver.url.replace('http', 'json')}/{HIDDEN}"
    assert await sender(**ALLOWED).send(message(output="a <b> c"), SERVICE) == Delivered()
    (got,) = receiver.got
    sent = json.loads(got.body)
    assert got.path == f"/{HIDDEN}"
    assert (sent["title"], sent["message"], sent["type"]) == (
        "writer completed",
        "a <b> c\n\nTask t1, 1.2 s",
        "success",
    )
    assert HIDDEN not in caplog.text, "neither apprise nor the library beneath it says where it connects"


async def test_apprise_connects_nowhere_unless_a_setting_allows_it(
    receiver: Receiver, sender: Make, secrets: dict[str, str]
) -> None:
    secrets["SERVICE"] = receiver.url.replace("http", "json")
    with pytest.raises(DeliveryRefused, match="add the word apprise to WATCHBILL_DELIVERY_ALLOW"):
        await sender().send(message(), SERVICE)
    assert receiver.got == []


@apprise_loads_old_modules
async def test_a_service_that_refuses_may_be_better_next_time(
    receiver: Receiver, sender: Make, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets["SERVICE"] = f"{receiver.url.replace('http', 'json')}/{HIDDEN}"
    receiver.answer(410)
    with pytest.raises(NotDelivered) as caught:
        await sender(**ALLOWED).send(message(), SERVICE)
    assert str(caught.value) == "the service of variable SERVICE did not take it; apprise can't say why"
    assert HIDDEN not in caplog.text
    logging.getLogger("apprise").warning("somebody else's line")
    assert "somebody else's line" in caplog.text


@apprise_loads_old_modules
@pytest.mark.parametrize("url", [f"nonsense://{HIDDEN}", HIDDEN, f"json://127.0.0.1:1/{HIDDEN},json://127.0.0.1:1/b"])
async def test_what_is_no_service_is_refused_without_being_quoted(
    url: str, sender: Make, secrets: dict[str, str]
) -> None:
    secrets["SERVICE"] = url
    with pytest.raises(DeliveryRefused) as caught:
        await sender(**ALLOWED).send(message(), SERVICE)
    assert str(caught.value).startswith("variable SERVICE is no URL that apprise knows, or names more than one service")


@apprise_loads_old_modules
async def test_a_slow_service_is_left_after_the_time(sender: Make, secrets: dict[str, str]) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    server, port = await raw(serve)
    secrets["SERVICE"] = f"json://127.0.0.1:{port}/?rto=60"
    try:
        with pytest.raises(NotDelivered, match=r"the service of variable SERVICE did not take it within 0\.2 s"):
            await sender(delivery_timeout_seconds=0.2, **ALLOWED).send(message(), SERVICE)
    finally:
        gone.set()
        server.close()


# ---------------------------------------------------------------- every channel


@pytest.mark.pure
async def test_a_part_that_is_not_installed_is_named(
    sender: Make, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets["SERVICE"] = "json://127.0.0.1:1"
    for library, module, to in (
        ("apprise", "watchbill.delivery.notify", SERVICE),
        ("aiosmtplib", "watchbill.delivery.mail", destination(email={"to": ["ops@example.com"]})),
    ):
        import watchbill.delivery

        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.delattr(watchbill.delivery, module.rpartition(".")[2], raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(NotDelivered, match=rf"The channel .*{library}.* needs an optional part of Watchbill"):
            await sender(**ALLOWED).send(message(), to)


@pytest.mark.pure
async def test_a_fault_of_our_own_is_no_reason_to_lose_a_message(secrets: dict[str, str], sender: Make) -> None:
    class Broken:
        def read(self, secret: Any) -> str:
            raise KeyError("oops")

    sends = sender(**ALLOWED)
    sends._secrets = Broken()
    with pytest.raises(NotDelivered) as caught:
        await sends.send(message(), SERVICE)
    assert str(caught.value) == "apprise failed: KeyError: 'oops'"
