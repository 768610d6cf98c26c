"""Deliveries for tests that need many: put on the delivery queue at once, and looked for wherever they may be."""

from __future__ import annotations

from collections import Counter

from workshop import Crew

from watchbill.names import RECEIVER
from watchbill.store import deliveries, packed, submissions
from watchbill.store.deliveries import Content
from watchbill.store.submissions import Submission

_MESSAGE = {
    "agent_name": "a",
    "success": True,
    "output": "done",
    "error": None,
    "execution_time_ms": 1.0,
    "metadata": {},
}


async def enqueue(crew: Crew, name: str, n: int) -> None:
    """Puts so many deliveries for one of the crew's destinations on the delivery queue, as the mover does."""
    made = [
        Submission(f"{name}-{i}", RECEIVER + name, Content(name, "", {"task_id": f"{name}-{i}", **_MESSAGE}).pack())
        for i in range(n)
    ]
    await submissions.submit(crew.redis, crew.keys.deliveries(), crew.uid, made, max_queued=deliveries.MANY)


async def found(crew: Crew) -> Counter[str]:
    """Delivery → how often it is delayed, waits or is held."""
    keys = crew.keys.deliveries()
    async with crew.redis.pipeline(transaction=True) as pipe:
        pipe.zrange(keys.delayed, 0, -1)
        pipe.xrange(keys.streams[2])
        members, entries = await pipe.execute()
    return Counter([packed.Member.unpack(m).task_id for m in members] + [fields["id"] for _, fields in entries])


async def ended(crew: Crew, state: str, n: int) -> bool:
    """Exactly so many deliveries have ended, each in this state, and all others too."""
    listed = await deliveries.listed(crew.redis, crew.keys, 10_000)
    return len(listed) == n and {one.state.value for one in listed} == {state}
