"""What the tests of roles share: a crew whose agents have them, and claims of its workers."""

from __future__ import annotations

import itertools
from typing import Any, Final

from support import Crew

from watchbill.names import ROLE
from watchbill.records import AgentDefinition
from watchbill.store import definitions
from watchbill.store.queue import Claimed

REVIEWERS: Final = ROLE + "reviewer"

_numbers = itertools.count(100)


async def give_roles(crew: Crew, *agents: dict[str, Any], **fields: Any) -> None:
    """Makes these the crew's agents; each has the role `reviewer` unless it says otherwise. `fields`: of the crew."""
    made = [AgentDefinition(**{"agent_class": "EchoAgent", "roles": ["reviewer"], **agent}) for agent in agents]
    crew.definition = crew.definition.model_copy(update={"agents": made, **fields})
    await definitions.apply(crew.client, crew.keys, crew.definition)
    crew.queue.role_feeds.take_up(crew.definition, crew.definition.digest())


async def taken(crew: Crew, worker: str, slots: int = 10) -> tuple[Claimed, ...]:
    """The next claim of a worker, which starts what it gets."""
    number = next(_numbers) if await crew.client.hexists(crew.keys.claims, worker) else 1
    return await crew.take(worker, number, slots)
