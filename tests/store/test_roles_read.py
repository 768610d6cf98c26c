"""What a call reads of a crew with many agents and roles: those that it is about."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from role_calls import give_roles, taken
from support import Crew

from watchbill.names import ROLE


async def read(crew: Crew, call: Callable[[], Awaitable[Any]]) -> set[str]:
    """The agents whose limits the store's scripts read during the call."""
    mark = uuid.uuid4().hex
    found: set[str] = set()
    async with redis.asyncio.Redis.from_url(crew.url, decode_responses=True) as client, client.monitor() as monitor:
        await call()
        await crew.client.echo(mark)
        async for told in monitor.listen():
            if mark in told["command"]:
                return found
            if crew.keys.meta in told["command"]:
                found |= set(re.findall(r"held:(\S+)", told["command"]))
    raise AssertionError("the server has closed the connection")


async def test_a_claim_reads_the_agents_whose_work_comes_or_waits(crew: Crew) -> None:
    await give_roles(
        crew,
        *(
            {"agent_id": f"a{i}", "max_concurrent": 1, "roles": [f"r{i}-{j}" for j in range(9)] + [f"pair{i // 2}"]}
            for i in range(10)
        ),
    )
    assert await read(crew, lambda: taken(crew, "w")) == set()
    await crew.submit("t0", agent="a0")
    assert await read(crew, lambda: taken(crew, "w")) == {"a0"}
    assert await read(crew, lambda: taken(crew, "v")) == set(), "another's task runs"
    await crew.submit("t1", agent=ROLE + "r5-3")
    await crew.submit("t2", agent=ROLE + "pair3")
    assert await read(crew, lambda: taken(crew, "w")) == {"a5", "a6", "a7"}
    await crew.submit("t3", agent=ROLE + "r5-1")
    assert await taken(crew, "w") == (), "it waits for a5"
    assert await read(crew, lambda: taken(crew, "v")) == {"a5"}
