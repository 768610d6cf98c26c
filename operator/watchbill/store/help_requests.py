"""Requests for help where ready work makes no progress. A stub over store/scripts/ask_help.lua, safe to send twice."""

from __future__ import annotations

from typing import Final

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys, split_step_id
from watchbill.store.figures import Figures
from watchbill.store.queue import crew_gone

INTERVALS_SECONDS: Final = (60.0, 300.0, 900.0, 3600.0)
"""The time until the first request, and from each to the next. The last one stays."""


def are_due(now: Figures) -> bool:
    """Returns whether ready work may make no progress: nobody is at work, or no worker can run its agent."""
    is_idle = now.workers == 0 or now.running == 0
    return not now.suspended and (now.parked_by.get("agent", 0) > 0 or (is_idle and now.waiting + now.running > 0))


async def ask(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> float | None:
    """Asks for help on the feeds (`mission_help_needed`) if it is time for that, once whoever calls. Returns in how
    many seconds to call again; None: ready work makes progress, or there is none. Raises CrewGone."""
    millis = [round(seconds * 1000) for seconds in INTERVALS_SECONDS]
    work, agent = "", ""
    while True:
        step = split_step_id(work)
        run_id = step[0] if step else ""
        named = [*keys.fixed, keys.agent_events(agent), keys.run_events(run_id)]
        with outages.translated():
            reply = await scripts.run(client, "ask_help", named, [uid, work, agent, run_id, *millis])
        match reply[0]:
            case "gone":
                raise crew_gone(keys)
            case "other":
                work, agent = str(reply[1]), str(reply[2])
            case "ok":
                return int(reply[1]) / 1000
            case _:
                return None
