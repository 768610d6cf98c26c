"""Steps of hierarchical crews: what one is asked by the step that has delegated it, and the team that it may ask."""

from __future__ import annotations

from dataclasses import replace

from watchbill.connection import outages
from watchbill.connection.gathering import GatheredReads
from watchbill.names import CrewKeys
from watchbill.plan import hierarchy
from watchbill.records import CrewDefinition
from watchbill.store import delegations, runs
from watchbill.store.queue import Claimed
from watchbill.worker.execution.reading import Read


async def read(reads: GatheredReads, keys: CrewKeys, crew: CrewDefinition, task: Claimed, known: Read) -> Read:
    """Adds to what was read of a step what it is asked, if another one has delegated it, and the outputs that are given
    with that. Raises NotFound for an output that can't be read."""
    run_id, step = task.run_id, task.step
    if run_id is None or step is None or not hierarchy.is_delegated(crew, step):
        return known
    asked = await outages.persist(lambda: delegations.asked(reads.client, keys, run_id, step))
    found = await outages.persist(lambda: runs.outputs(reads, keys, run_id, list(asked.outputs.values())))
    return replace(known, asked=asked, outputs={name: found[given] for name, given in asked.outputs.items()})
