"""Trimming of ended work to a crew's bounds: `tasks.maxResults` records of it, and results on their stream neither more
nor longer than that. What was needed only for that goes, too: definitions that no run refers to any more.

Records expire by themselves (`tasks.resultTTLSeconds`). Here goes what is too many, the oldest first, and what expired
records leave in the index. What hasn't ended stays, but for runs of many steps whose client has gone before it had sent
all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import DefinitionChanged
from watchbill.names import CrewKeys
from watchbill.store import control, packed
from watchbill.store.definitions import Current
from watchbill.store.queue import crew_gone
from watchbill.store.unfinished import FAR

PAGE: Final = 100
"""Records that go in one call: it holds the server for less than a millisecond."""
PAUSE_SECONDS: Final = 0.003
"""Between two calls, so that others' come between: still more records in a second than a worker can finish."""


async def trim(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, current: Current) -> int:
    """Brings the crew within the bounds of its definition, in pages; one cheap call where it is. Several may do so at
    once, and may stop at any time. Returns how many records and results went.

    Raises CrewGone, NewerRecord; DefinitionChanged when `current` is no longer the crew's definition: look again.
    """
    gone, left, unused, unmade = await _trim_page(client, keys, uid, current, ())
    for run_id in unmade:
        await control.cancel_unmade(client, keys, uid, run_id, current.definition.tasks.result_ttl_seconds * 1000)
    went = 1
    while unused or (left and went):  # else others are at it
        with outages.translated():
            found: Any = await client.zrange(keys.ids, "-inf", FAR, byscore=True, offset=0, num=PAGE, withscores=True)
        went, left, unused, _ = await _trim_page(client, keys, uid, current, found, unused)
        gone += went
        if left:
            await asyncio.sleep(PAUSE_SECONDS)
    return gone


async def _trim_page(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    current: Current,
    oldest: Sequence[tuple[str, float]],
    unused: str = "",
) -> tuple[int, int, str, list[str]]:
    """The number of entries that were removed, and of those that remain to be; the definitions that nothing may need,
    for the next call; and the runs that nobody makes whole."""
    policy = current.definition.tasks
    names = list(keys.fixed)
    highest = int(oldest[-1][1]) if oldest else 0
    args: list[Any] = [uid, current.digest, policy.max_results, policy.result_ttl_seconds * 1000, highest, unused]
    for task_id, _ in oldest:
        names += (keys.task(task_id), keys.run(task_id), keys.run_steps(task_id), keys.run_results(task_id))
        args.append(task_id)
    names += (keys.definition(digest) for digest in packed.ids(unused))
    with outages.translated():
        reply = await scripts.run(client, "trim", names, args)
    if reply[0] == "gone":
        raise crew_gone(keys)
    if reply[0] == "changed":
        raise DefinitionChanged(f"crew {keys.crew!r} has another definition than {current.digest!r} by now")
    return int(reply[1]), int(reply[2]), str(reply[3]), list(map(str, reply[4]))
