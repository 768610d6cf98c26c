"""Agents that tell what they do with agent `b`, on the event loop, in a thread, and in a process."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


async def on_loop(context: Any) -> str:
    """Tells all that there is to tell; returns what is said of an agent that isn't there."""
    await context.delegate("b", "find them", scope="the sources", spawn_mode="forked_context")
    await context.hand_off_for_review("b", "read it", scope="the draft")
    await context.approve("b", "well done")
    await context.escalate("which is first?", to="b")
    await context.escalate("anybody?")
    try:
        await context.delegate("nobody")
    except ValueError as error:
        return str(error)
    return "delegated to nobody"


def in_thread(context: Any) -> str:
    context.delegate_sync("b", "find them", scope="the sources", spawn_mode="forked_context")
    context.hand_off_for_review_sync("b", "read it", scope="the draft")
    context.approve_sync("b", "well done")
    context.escalate_sync("which is first?", to="b")
    context.escalate_sync("anybody?")
    try:
        context.delegate_sync("nobody")
    except ValueError as error:
        return str(error)
    return "delegated to nobody"


class InProcess:
    runs_in = "process"

    def run(self, context: Any) -> str:
        return in_thread(context)


async def many(context: Any) -> str:
    await asyncio.gather(*(context.emit(str(number)) for number in range(50)))
    return "said"


async def meet(context: Any) -> Any:
    """Uses the crew's bus, stream, lock and limiter. Leaves the bus listening."""
    heard = asyncio.Event()
    await context.bus.subscribe("news", lambda message: heard.set())
    await context.bus.run_in_task()
    count = await context.bus.publish("news", {"a": 1})
    await asyncio.wait_for(heard.wait(), 180)
    await context.stream("work").add({"n": 1})
    (message,) = await context.stream("work").read()
    door = context.lock("door")
    async with door.acquire_context():
        fence, other = door.fence, await context.lock("door").acquire(retry=0)
    limiter = context.limiter("calls", 1, 60)
    allowed = [await limiter.is_allowed("api"), await limiter.is_allowed("api")]
    return [count, message["data"], fence > 0, bool(other), allowed]


async def leave_broken_bus(context: Any) -> str:
    def fail() -> None:
        raise ConnectionError("the connection is gone")

    context.bus.close = fail
    return "done"


def meet_sync(context: Any) -> Any:
    heard = threading.Event()
    context.bus_sync.subscribe("news", lambda message: heard.set())
    context.bus_sync.run_in_thread()
    count = context.bus_sync.publish("news", {"a": 1})
    assert heard.wait(180)
    context.stream_sync("work").add({"n": 1})
    (message,) = context.stream_sync("work").read()
    door = context.lock_sync("door")
    with door.acquire_context():
        fence, other = door.fence, context.lock_sync("door").acquire(retry=0)
    limiter = context.limiter_sync("calls", 1, 60)
    allowed = [limiter.is_allowed("api"), limiter.is_allowed("api")]
    return [count, message["data"], fence > 0, bool(other), allowed]


async def meet_apart(context: Any) -> Any:
    return await meet(context)


def meet_sync_apart(context: Any) -> Any:
    return meet_sync(context)


async def holds_the_door(context: Any) -> None:
    """Holds a lock until it is killed, and listens to the channel of its name meanwhile."""
    lock = context.lock("door", expire=2)
    while not await lock.acquire(retry=10):
        pass
    await context.bus.subscribe("door", lambda message: None)
    await context.bus.run_in_task()
    while await lock.renew() or await lock.acquire(retry=10):
        await asyncio.sleep(0.2)


for _function in (meet_apart, meet_sync_apart, holds_the_door):
    _function.runs_in = "process"  # type: ignore[union-attr]
