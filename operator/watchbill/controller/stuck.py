"""Asks for help for crews whose ready work makes no progress."""

from __future__ import annotations

import redis.asyncio

from watchbill.clock import SYSTEM, Clock
from watchbill.controller.memory import CrewMemory
from watchbill.names import CrewKeys
from watchbill.store import help_requests
from watchbill.store.figures import Figures


async def ask(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, now: Figures, memory: CrewMemory, clock: Clock = SYSTEM
) -> float | None:
    """Asks where that is due. Returns in how many seconds to look again; None: the crew has no such work."""
    is_due = help_requests.are_due(now)
    if not is_due and memory.help_at is None:
        return None
    if not is_due or memory.help_at is None or clock.monotonic() >= memory.help_at:  # else the store forgets it
        pause = await help_requests.ask(client, keys, uid)
        memory.help_at = None if pause is None else clock.monotonic() + pause
    return None if memory.help_at is None else max(memory.help_at - clock.monotonic(), 0.0)
