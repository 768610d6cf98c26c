"""The operator hears of work on each crew's own channel, in a real store."""

from __future__ import annotations

import asyncio
import uuid

import redis.asyncio

from waiting import until
from watchbill.controller.cache import Key
from watchbill.controller.wakeups import WakeUps
from watchbill.names import CrewKeys


async def test_a_message_says_by_its_channel_whose_work_it_is(redis_client: redis.asyncio.Redis) -> None:
    ours, other = (CrewKeys("test", f"crew-{uuid.uuid4().hex[:16]}") for _ in range(2))
    heard: list[Key] = []
    listening = asyncio.create_task(WakeUps(redis_client, heard.append, lambda: None).run())
    try:

        async def publish() -> bool:
            # A user of this crew may publish on all of these, and claim what it likes; the last one ends the test.
            await redis_client.publish(ours.reply("c:wake"), other.crew)
            await redis_client.publish(ours.wake, other.crew)
            return ("test", ours.crew.partition("/")[2]) in heard

        await until(publish, what="the crew's work")
        assert ("test", other.crew.partition("/")[2]) not in heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
