"""The crew of a service: made where the store has none, and made anew where the store has lost it."""

from __future__ import annotations

import redis.asyncio

from watchbill.names import CrewKeys
from watchbill.records import CrewDefinition
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis


async def make(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    definition: CrewDefinition,
    *,
    uid: str | None = None,
    only_new: bool = False,
) -> str:
    """Makes `definition` that of the crew, and returns the crew's uid. `uid`: it was there before under this one.
    `only_new`: a crew that is there keeps its own. Raises NameTaken when an operator manages a crew of that name."""
    made = await definitions.apply(client, keys, definition, uid=uid, was_there=uid is not None, only_new=only_new)
    namespace = keys.crew.partition("/")[0]
    records = CrewRedis(client=client, tenant=namespace, strict=True)
    if not only_new or not await records.crew_exists(definition.name):
        await records.save_crew(definition.model_copy(update={"crew_id": made}))
    return made
