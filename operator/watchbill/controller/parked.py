"""Reads the agents that parked tasks wait for, and has such tasks tried again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from watchbill.clock import SYSTEM, Clock
from watchbill.controller.memory import CrewMemory
from watchbill.store.queue import Queue

PARKED_SECONDS: Final = 10.0
"""Seconds between two reads of the agents whose tasks are parked."""


class Parked(NamedTuple):
    """The agents that a crew's parked tasks wait for, as they were last read."""

    agents: Sequence[str]
    """The names of these agents, sorted."""
    again_in: float | None
    """Seconds until `agents` is to be read again; None: it is as of now."""


async def read(queue: Queue, memory: CrewMemory, count: int, clock: Clock = SYSTEM) -> Parked:
    """`count`: the number of tasks that are parked for their agent. They are read now and then where it changes."""
    known, at, _ = memory.parked
    now = clock.monotonic()
    if count == 0:
        memory.parked = (0, 0.0, ())
    elif known == 0 or (count != known and now - at >= PARKED_SECONDS):
        memory.parked = (count, now, sorted(await queue.parked_agents()))
    known, at, agents = memory.parked
    return Parked(agents, None if count == known else max(at + PARKED_SECONDS - now, 0.0))


async def try_again(queue: Queue) -> None:
    """Moves parked tasks back onto the queue: the crew has changed, and may now have the agents that were missing.

    Workers do the same, but there may be none, and parked tasks start none.
    """
    for members in (await queue.parked_agents()).values():
        await queue.unpark(members)
