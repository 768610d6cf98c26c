"""Suspended crews: none of their tasks begins. Stubs over store/scripts, safe to send twice."""

from __future__ import annotations

from collections.abc import Sequence

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.store import control


def by_kubectl(keys: CrewKeys, *, on: bool) -> str:
    """The command that suspends a crew which an operator manages, or resumes it."""
    namespace, _, name = keys.crew.partition("/")
    spec = f'{{"spec":{{"suspend":{str(on).lower()}}}}}'
    return f"kubectl patch crew {name} -n {namespace} --type merge -p '{spec}'"


async def suspend(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, *, on: bool) -> bool:
    """From the answer on no task of the crew is claimed, until that is taken back: what is submitted waits, what runs
    goes on, and results are delivered. Returns whether that changed anything. Raises CrewGone."""
    return bool((await control.call(client, keys, "suspend", keys.fixed, [uid, keys.crew, int(on)]))[1])


async def silent(client: redis.asyncio.Redis, keys: CrewKeys) -> set[str]:
    """Returns the incarnations whose leases are over, and whose tasks nobody has taken over."""
    with outages.translated():
        seconds, micros = await (await connection.home(client, keys.meta)).time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return set(map(str, await client.zrangebyscore(keys.leases, "(0", now_ms)))


async def return_dead(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, incarnations: Sequence[str]) -> int:
    """Has the tasks of a suspended crew wait again that these incarnations hold, if their leases are over. They may
    write nothing from then on. Returns the number of tasks, at most 500. Raises CrewGone."""
    return int((await control.call(client, keys, "return_dead", keys.fixed, [uid, *incarnations]))[1])
