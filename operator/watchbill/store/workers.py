"""The workers of a crew as scaling sees them: what each holds, by the store's own account, and whether it is to drain.

Only reads. One worker takes part in two queues, the crew's and its delivery queue, as two incarnations; here it is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.store import incarnations, packed
from watchbill.store.queue import crew_gone

DrainedBy = Literal["", "person", "scaling"]
"""The one that asked a worker to claim no more; empty: nobody."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker: it has a lease, or holds what nobody has taken over yet."""

    name: str
    """The name by which it is drained."""
    holds: int
    """Tasks and deliveries that are claimed and not ended, those that the store has lost included."""
    draining: DrainedBy
    revision: str | None
    """The template revision of its pod; empty: it is in none; None: it has not said yet."""
    since_ms: int
    """The time at which the store first knew it; 0: it has not said yet."""
    ready: bool | None = None
    """Its kubelet takes it for ready; None: it doesn't say, as where it serves no probes."""
    ready_since_ms: int = 0
    """The time since which it does or doesn't, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Workers:
    """All workers of a crew, as of one moment by the store's clock."""

    now_ms: int
    undrained_ms: int
    """The time at which a drain was last taken back; 0: never."""
    of_crew: tuple[Worker, ...]


async def workers(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> Workers:
    """Returns the workers by name. Raises CrewGone when the crew was deleted or replaced."""
    with outages.translated():
        reply, delivering = [await scripts.run(client, "workers", of.fixed, [uid]) for of in (keys, keys.deliveries())]
    if "gone" in (reply[0], delivering[0]):
        raise crew_gone(keys)
    return parsed(reply, delivering)


def parsed(reply: Sequence[Any], delivering: Sequence[Any]) -> Workers:
    """Returns the workers of two answers of workers.lua: for the crew's queue, and for its delivery queue."""
    _, now_ms, undrained_ms, flat = reply
    found: dict[str, Worker] = {}
    for incarnation, holds, says, told in packed.rows(flat, 4):
        said, name = _said(says), incarnations.worker(incarnation)
        before = found[name].holds if name in found else 0
        of_pod = said.get("revision"), said.get("since", 0), *_readiness(said)
        found[name] = Worker(name, before + holds + _recovering(said), _by(told), *of_pod)
    for incarnation, holds, _, told in packed.rows(delivering[3], 4):
        name = incarnations.worker(incarnation)
        known = found.get(name, Worker(name, 0, _by(told), None, 0))
        found[name] = replace(known, holds=known.holds + holds)
    return Workers(now_ms, undrained_ms, tuple(found[name] for name in sorted(found)))


def _by(told: str) -> DrainedBy:
    if not told:
        return ""
    return "scaling" if told.endswith(" scaling") else "person"


def _recovering(said: Mapping[str, Any]) -> int:
    """Returns how many tasks that the store has lost the worker still has."""
    number = said.get("recovering")
    return number if isinstance(number, int) else 0


def _readiness(said: Mapping[str, Any]) -> tuple[bool | None, int]:
    ready, since_ms = said.get("ready"), said.get("ready_since")
    return (ready, since_ms) if isinstance(ready, bool) and isinstance(since_ms, int) else (None, 0)


def _said(text: str) -> dict[str, Any]:
    """Parses the report of a worker, which another version may write in another form."""
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    is_known = isinstance(said, dict) and isinstance(said.get("revision"), str) and isinstance(said.get("since"), int)
    return said if is_known else {}
