"""A crew's place in the queue: its uid, its limits, and its definitions, kept by content.

The record that people read is `store/crews.py`'s; this is what the scripts check.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import redis.asyncio

from watchbill.connection import run_script, translated
from watchbill.errors import Conflict, NotFound
from watchbill.names import CrewKeys
from watchbill.records import CrewDefinition


@dataclass(frozen=True, slots=True)
class Current:
    """The crew as it is now."""

    uid: str
    digest: str
    definition: CrewDefinition


async def apply(
    client: redis.asyncio.Redis, keys: CrewKeys, definition: CrewDefinition, *, uid: str | None = None
) -> str:
    """Makes `definition` the crew's current one; creates streams and groups. Returns the crew's uid.

    Runs that have started keep the definition they started with. `uid` must be the crew's own where given.
    Raises Conflict when the crew of that name has another uid.
    """
    digest = definition.digest()
    fresh = uid or str(uuid.uuid4())
    with translated():
        while True:
            old = str(await client.hget(keys.meta, "def") or "")
            reply = await run_script(
                client,
                "apply",
                [*keys.fixed, keys.definition(digest), keys.definition(old or digest)],
                [fresh, uid or "", digest, old, definition.content(), definition.tasks.max_queued],
            )
            if reply[0] == "ok":
                return str(reply[1])
            if reply[0] == "other":
                raise Conflict(f"crew {keys.crew!r} in the store is another crew of that name (uid {reply[1]})")


async def current(client: redis.asyncio.Redis, keys: CrewKeys) -> Current:
    """The crew's uid and definition. Raises NotFound when the store has no such crew."""
    with translated():
        while True:
            uid, digest = (str(v or "") for v in await client.hmget(keys.meta, ["uid", "def"]))
            if not uid or not digest:
                raise NotFound(
                    f"the store has no crew {keys.crew!r}. Check name and namespace, or start it: watchbill run FILE"
                )
            content = await client.get(keys.definition(digest))
            if content is not None:  # else it was replaced between the two reads
                return Current(uid, digest, CrewDefinition.model_validate_json(content))


async def load(client: redis.asyncio.Redis, keys: CrewKeys, digest: str) -> CrewDefinition:
    """One definition by its hash. Raises NotFound when it is gone."""
    with translated():
        content = await client.get(keys.definition(digest))
    if content is None:
        raise NotFound(f"definition {digest!r} of crew {keys.crew!r} is no longer in the store")
    return CrewDefinition.model_validate_json(content)
