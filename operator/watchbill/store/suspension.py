"""Crews none of whose tasks begins, and crews that take no work. Stubs over store/scripts, safe to send twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.store import control

_CLOSING: Final = "it is deleted once its work has ended"


def by_kubectl(keys: CrewKeys, *, on: bool) -> str:
    """The command that suspends a crew which an operator manages, or resumes it."""
    namespace, _, name = keys.crew.partition("/")
    spec = f'{{"spec":{{"suspend":{str(on).lower()}}}}}'
    return f"kubectl patch crew {name} -n {namespace} --type merge -p '{spec}'"


async def suspend(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, *, on: bool, hold: str = "") -> bool:
    """From the answer on no task of the crew is claimed, until that is taken back: what is submitted waits, what runs
    goes on, and results are delivered. `hold`: why the crew takes no work meanwhile, as QuotaExceeded tells whoever
    submits. Returns whether that changed anything. Raises CrewGone."""
    return bool((await control.call(client, keys, "suspend", keys.fixed, [uid, keys.crew, int(on), hold]))[1])


async def close(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, *, on: bool) -> bool:
    """From the answer on the crew takes no work, as Closed tells whoever submits, and its heartbeats don't fire, until
    that is taken back. What it has goes on. Returns whether that changed anything. Raises CrewGone."""
    return bool((await control.call(client, keys, "admit", keys.fixed, [uid, _CLOSING if on else ""]))[1])


async def silent(client: redis.asyncio.Redis, keys: CrewKeys) -> set[str]:
    """Returns the incarnations whose leases are over, and whose tasks nobody has taken over."""
    with outages.translated():
        now_ms = await connection.now_ms(client, keys.meta)
        return set(map(str, await client.zrangebyscore(keys.leases, "(0", now_ms)))


async def return_dead(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, incarnations: Sequence[str]) -> int:
    """Has the tasks of a suspended crew wait again that these incarnations hold, if their leases are over. They may
    write nothing from then on. Returns the number of tasks, at most 500. Raises CrewGone."""
    return int((await control.call(client, keys, "return_dead", keys.fixed, [uid, *incarnations]))[1])
