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
    client: redis.asyncio.Redis, keys: CrewKeys, definition: CrewDefinition, *, uid: str | None = None, owner: str = ""
) -> str:
    """Makes `definition` the crew's current one; creates streams and groups. Returns the crew's uid.

    Runs that have started keep the definition they started with. `uid` must be the crew's own where given;
    `owner` says who manages it, so that nobody else sweeps it away.
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
                [fresh, uid or "", digest, old, definition.content(), definition.tasks.max_queued, owner],
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


async def identity(client: redis.asyncio.Redis, keys: CrewKeys) -> tuple[str, str]:
    """(uid, owner) of the crew in the store; empty where there is none."""
    with translated():
        uid, owner = await client.hmget(keys.meta, ["uid", "owner"])
    return str(uid or ""), str(owner or "")


async def delete(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> bool:
    """Removes the crew of this uid with all that belongs to it. False when the crew there is another.

    May be called again after an interruption: it goes on where it was.
    """
    with translated():
        meta = {str(k): str(v) for k, v in (await client.hgetall(keys.meta)).items()}
        agents: list[str] = []
        if meta.get("def") and (content := await client.get(keys.definition(meta["def"]))):
            agents = [a.agent_id for a in CrewDefinition.model_validate_json(content).agents]
        if await run_script(client, "delete", keys.fixed, [uid]) != "ok":
            return False
        digests = {meta.get("def", ""), *(f.removeprefix("ref:") for f in meta if f.startswith("ref:"))}
        doomed = [keys.definition(digest) for digest in digests if digest]
        doomed += [keys.heartbeat(f.removeprefix("heartbeat:")) for f in meta if f.startswith("heartbeat:")]
        doomed += [keys.agent_events(agent) for agent in agents]
        if doomed:
            await client.unlink(*doomed)
        while ids := [str(i) for i in await client.zrange(keys.ids, 0, 99)]:
            await client.unlink(*(key for i in ids for key in keys.of_id(i)))
            await client.zrem(keys.ids, *ids)
    return True
