"""Reads how many crews stand, in one call for each server that has some of them. Only reads.

Of a crew with work or workers all is read that scaling needs; of others, only whether there is work after all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys, CrewRoot
from watchbill.store import figures, workers
from watchbill.store.definitions import Identity
from watchbill.store.figures import Figures
from watchbill.store.workers import Workers

WHOLE_AT_ONCE: Final = 32
"""Crews that one call reads whole. It holds the server for about three milliseconds."""
BRIEF_AT_ONCE: Final = 250
"""Crews that one call reads in brief, which takes it as long."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A crew with work or workers, as of one moment."""

    identity: Identity
    figures: Figures
    workers: Workers
    substance: Any
    """All that a plan depends on but ages: where this is the same, little has changed. Only for comparison."""


Brief = tuple[Any, ...]
"""The entries of the crew's queues, and when delayed ones are due, in ms; (0,): there is nothing to do. Only for
comparison."""
NOTHING: Final[Brief] = (0,)

_OF_QUEUE: Final = CrewKeys("namespace", "name")
_NAMES: Final = [key.removeprefix(_OF_QUEUE.root) for keys in (_OF_QUEUE, _OF_QUEUE.deliveries()) for key in keys.fixed]


async def read(
    client: redis.asyncio.Redis, whole: Sequence[CrewRoot], brief: Sequence[CrewRoot]
) -> AsyncIterator[tuple[str, Whole | Brief | None]]:
    """Yields crew → how it stands; None: that can't be told now, as while the slot of its keys moves.

    Raises StoreUnavailable, StoreRefuses.
    """
    with outages.translated():
        nodes: dict[int, tuple[redis.asyncio.Redis, list[CrewRoot], list[CrewRoot]]] = {}
        for keys, is_whole in [*((k, True) for k in whole), *((k, False) for k in brief)]:
            node = await connection.home(client, keys.meta)
            _, whole_here, brief_here = nodes.setdefault(id(node), (node, [], []))
            (whole_here if is_whole else brief_here).append(keys)
        for node, whole_here, brief_here in nodes.values():
            calls = [(len(batch), batch) for batch in _batches(whole_here, WHOLE_AT_ONCE)]
            calls += [(0, batch) for batch in _batches(brief_here, BRIEF_AT_ONCE)]
            for number, crews in calls:
                answers = await scripts.run(node, "sweep", [], [number, *_NAMES, *(keys.root for keys in crews)])
                for keys, answer in zip(crews, answers, strict=True):
                    yield keys.crew, _parsed(answer)


async def one(client: redis.asyncio.Redis, keys: CrewRoot) -> Whole | None:
    """Returns how one crew stands, in one call; None: there is no such crew, or that can't be told now, or never: what
    stands before a store may refuse scripts that name no keys.

    Raises StoreUnavailable, StoreRefuses.
    """
    try:
        ((_, found),) = [answer async for answer in read(client, [keys], [])]
    except redis.exceptions.ResponseError:
        return None
    return found if isinstance(found, Whole) else None


def _batches(crews: Sequence[CrewRoot], most: int) -> list[Sequence[CrewRoot]]:
    return [crews[start : start + most] for start in range(0, len(crews), most)]


def _parsed(answer: Any) -> Whole | Brief | None:
    if not answer:
        return None
    if answer[0] == "brief":
        return tuple(answer[1:])
    _, identity, of_queue, of_deliveries, at_queue, at_deliveries = answer
    found = figures.parsed(of_queue, of_deliveries)
    if found is None:
        return None
    return Whole(
        Identity(*(str(value or "") for value in identity)),
        found,
        workers.parsed(at_queue, at_deliveries),
        (identity, _without_ages(of_queue), _without_ages(of_deliveries), at_queue[2:], at_deliveries[2:]),
    )


def _without_ages(reply: Sequence[Any]) -> Any:
    """The answer of figures.lua without its time, and without the ids of heads, which tell ages."""
    if not reply:
        return ()
    _, *counts, classes, of_workers, _, outbox = reply
    return counts, [classes[i : i + 2] for i in range(0, len(classes), 3)], of_workers, outbox[:1]
