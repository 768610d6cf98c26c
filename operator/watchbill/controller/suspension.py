"""Brings suspended crews to rest: nobody takes over what their dead workers hold, so it has to be returned."""

from __future__ import annotations

import redis.asyncio

from watchbill.clock import SYSTEM, Clock
from watchbill.controller.memory import CrewMemory
from watchbill.names import CrewKeys
from watchbill.store import suspension


async def return_dead(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    memory: CrewMemory,
    lease_seconds: float,
    clock: Clock = SYSTEM,
) -> bool:
    """Returns whether tasks of dead workers of a suspended crew wait again by this call.

    A worker counts as dead once it was seen to be silent for another lease: when the store was away, the leases of all
    workers are over as it comes back, and they must be given the time to renew.
    """
    silent, now = await suspension.silent(client, keys), clock.monotonic()
    memory.silent_since = {name: memory.silent_since.get(name, now) for name in silent}
    dead = [name for name, since in memory.silent_since.items() if now - since >= lease_seconds]
    return bool(dead) and await suspension.return_dead(client, keys, uid, dead) > 0
