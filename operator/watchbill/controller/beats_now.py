"""Fires heartbeats that somebody asks for by an annotation, and reads how heartbeats stand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import redis.asyncio

from watchbill.api.conditions import Reason
from watchbill.controller.memory import CrewMemory
from watchbill.errors import Closed, Conflict, InvalidInput, NewerRecord, QueueFull, QuotaExceeded
from watchbill.names import CrewKeys
from watchbill.plan import heartbeat as beat
from watchbill.store import fired, firing, heartbeats

logger = logging.getLogger("watchbill.operator")

_STORED: Final = frozenset({Reason.AVAILABLE, Reason.AGENT_UNAVAILABLE})
"""The verdicts on heartbeats that the store has, and whose crew has room."""


def asked(beats: Sequence[Mapping[str, Any]], memory: CrewMemory) -> dict[str, str]:
    """The heartbeats that are to be fired now, each with the value of its annotation that asks for it.

    `beats`: the Heartbeats as the API server has them. One that the store doesn't have, or whose crew has no room,
    waits until that is mended. One whose agent or role is missing does not: the store tells what becomes of it.
    """
    found = {}
    for seen in beats:
        name, token = str(seen["metadata"]["name"]), beat.run_now(seen)
        verdict = memory.verdicts.get(name)
        is_handled = memory.run_now.get(name, ("", ""))[0] == token  # and the status doesn't say it yet
        if token and not is_handled and verdict is not None and verdict[0] in _STORED:
            found[name] = token
    return found


async def fire(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    wanted: Mapping[str, str],
    memory: CrewMemory,
    *,
    check: Callable[[], object],
    now: datetime,
) -> bool:
    """Fires these heartbeats of the crew of this uid, and remembers what became of it. Returns whether the queue had no
    room for one: it is to be tried again. `check` is called before each, and raises NotLeader. Raises CrewGone."""
    is_left = False
    for name, token in wanted.items():
        check()
        try:
            made, _ = await firing.run_now(client, keys, name, token, now=now, uid=uid)
            told = f"fired {made}"
        except (Closed, Conflict, InvalidInput, NewerRecord, QuotaExceeded) as error:
            told = str(error)
        except QueueFull:
            is_left = True
            continue
        memory.run_now[name] = token, told
        logger.info("%s: heartbeat %s, asked for by %r: %s", keys.crew, name, token, told)
    return is_left


async def observed(client: redis.asyncio.Redis, keys: CrewKeys, *, suspended: bool) -> dict[str, beat.Observed]:
    """The crew's heartbeats as the store has them, by name. Those of a suspended crew fire nothing next."""
    states = await heartbeats.all_of(client, keys)
    made = [state.work for state in states if state.work]
    results = dict(zip(made, await fired.states(client, keys, made), strict=True))
    return {
        state.name: beat.Observed(
            last=state.last,
            following=None if suspended else state.next,
            slot=state.slot,
            work=state.work,
            result="" if (result := results.get(state.work, "")) == fired.EXPIRED else result,
            missed=state.missed,
        )
        for state in states
    }
