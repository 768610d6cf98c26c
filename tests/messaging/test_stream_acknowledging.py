"""Acknowledgements of the blocking process_messages, for which the handler's thread doesn't wait."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from watchbill.messaging import RedisClient, RedisStream, stopping
from watchbill.messaging.steps import Acknowledge, Call, Run, Script, Settle
from watchbill.messaging.stream_core import Stream


@pytest.fixture
def stream(redis_url: str) -> Iterator[RedisStream]:
    with RedisClient(redis_url) as client:
        made = RedisStream(f"stream-{uuid.uuid4().hex}", client)
        made.create_consumer_group("workers", "worker")
        for number in range(4):
            made.add({"number": number})
        yield made
        made.cleanup(force=True)


def pending(stream: RedisStream) -> int:
    return int(stream._redis.xpending(stream._core.key, "workers")["pending"])


async def test_a_message_is_acknowledged_while_the_next_one_is_handled(stream: RedisStream) -> None:
    seen: list[int] = []

    def handler(message: dict[str, Any]) -> None:
        number = message["data"]["number"]
        deadline = time.monotonic() + 180
        while pending(stream) != 4 - number and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(pending(stream))

    assert await asyncio.to_thread(stream.process_messages, handler, limit=4) == 4
    assert seen == [4, 3, 2, 1]
    assert pending(stream) == 0, "all are when it returns"


async def test_what_was_handled_before_an_interruption_is_acknowledged(stream: RedisStream) -> None:
    def handler(message: dict[str, Any]) -> None:
        if message["data"]["number"] == 2:
            raise KeyboardInterrupt

    def work() -> int:
        with pytest.raises(KeyboardInterrupt):
            stream.process_messages(handler)
        return pending(stream)

    assert await asyncio.to_thread(work) == 2


@pytest.mark.pure
def test_acknowledgements_that_wait_travel_together_and_before_what_follows_them() -> None:
    sent: list[Any] = []
    is_free = threading.Event()

    def take(step: Any) -> Any:
        is_free.wait(180)
        sent.append(step.command)
        return len(sent)

    with stopping.Helper(take, lambda: False) as helper:
        assert all(helper.take(Acknowledge("s", "g", f"{n}-0")) for n in range(4))
        is_free.set()
        helper.take(Call(("PING",)))
        assert helper.take(Settle()) is True
    acknowledged = [ids for command, *ids in sent if command == "XACK"]
    assert [one for ids in acknowledged for one in ids[2:]] == ["0-0", "1-0", "2-0", "3-0"]
    assert len(acknowledged) <= 2, "the first may have been taken by itself"
    assert sent[-1] == ("PING",)


@pytest.mark.pure
def test_an_acknowledgement_that_failed_is_known_when_it_is_settled() -> None:
    def take(step: Any) -> Any:
        raise redis.exceptions.ConnectionError

    with stopping.Helper(take, lambda: False) as helper:
        helper.take(Acknowledge("s", "g", "1-0"))
        assert [helper.take(Settle()) for _ in range(2)] == [False, True]


@pytest.mark.pure
def test_a_failed_acknowledgement_is_sent_again_with_all_of_its_batch() -> None:
    core = Stream("s")
    core.join("g", "c")
    steps = core.process(print, limit=2)
    assert isinstance(next(steps), Script)
    rows = [["1-0", ["n", "1"]], ["2-0", ["n", "2"]]]
    assert isinstance(steps.send([rows, [1, 1], [], ""]), Run)
    assert steps.send(None) == Acknowledge("s", "g", "1-0")
    assert isinstance(steps.send(True), Run)
    assert steps.send(None) == Acknowledge("s", "g", "2-0")
    assert steps.send(True) == Settle()
    assert steps.send(False) == Call(("XACK", "s", "g", "1-0", "2-0"))
    with pytest.raises(StopIteration) as ended:
        steps.send(2)
    assert ended.value.value == 2
