"""The services that fire the heartbeats of a crew, so that heartbeats that no service has any more can go. A stub.

A service says so again and again; what it said holds for a while, or until it ends. Safe to send twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.store import incarnations, packed
from watchbill.store.queue import BATCH, crew_gone

_SERVICE, _HEARTBEAT = "service:", "heartbeat:"


async def fires(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, service: str, names: Sequence[str], *, holds: timedelta
) -> tuple[bool, list[str]]:
    """Says that a service fires the heartbeats of these names, and removes those that no living service fires.

    `service`: an incarnation's name. What it says here replaces what it said before. Returns whether it was known
    before, and the names of the heartbeats that were removed. Raises CrewGone.
    """
    with outages.translated():
        fields = [str(field) for field in await client.hkeys(keys.meta)]
    known = {field.removeprefix(_HEARTBEAT) for field in fields if field.startswith(_HEARTBEAT)}
    others = [field.removeprefix(_SERVICE) for field in fields if field.startswith(_SERVICE)]
    return await _say(
        client,
        keys,
        [uid, service, holds // timedelta(milliseconds=1), packed.pack_ids(names)],
        ended=[other for other in others if incarnations.ended_here(other)],
        given=sorted(known - set(names))[:BATCH],
    )


async def fires_none(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, service: str) -> None:
    """Says that a service fires none any more. Its heartbeats stay for the next service. Raises CrewGone."""
    await _say(client, keys, [uid, service, 0, ""], ended=[], given=[])


async def _say(
    client: redis.asyncio.Redis, keys: CrewKeys, said: list[Any], *, ended: Sequence[str], given: Sequence[str]
) -> tuple[bool, list[str]]:
    sent = [*keys.fixed, *(key for name in given for key in (keys.heartbeat(name), keys.fired(name)))]
    with outages.translated():
        reply = await scripts.run(client, "heartbeat_services", sent, [*said, packed.pack_ids(ended), *given])
    if reply[0] == "gone":
        raise crew_gone(keys)
    return bool(reply[1]), [str(name) for name in reply[2:]]
