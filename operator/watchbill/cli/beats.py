"""Heartbeats that fire in this process: the result of each in one line, and the time of the next slot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from watchbill.api import Heartbeat
from watchbill.cli import output
from watchbill.client import Client
from watchbill.errors import WatchbillError
from watchbill.event_types import EventType, TownEvent
from watchbill.plan import schedule
from watchbill.store import heartbeats
from watchbill.tasks import RUN_TERMINAL
from watchbill.terminal import one_line

_TASK_ENDS: Final = (EventType.TASK_COMPLETED, EventType.TASK_FAILED, EventType.TASK_CANCELLED)
_MOST: Final = 200
"""Maximum length of an output or error."""


async def result(client: Client, crew: str, fired: Sequence[Heartbeat], event: TownEvent) -> str:
    """The result of a heartbeat, if the event is the end of its task or run; else empty."""
    if event.event_type is EventType.MISSION_STATE_CHANGED and event.new_state in RUN_TERMINAL:
        work_id, status = event.mission_id or "", event.new_state or ""
    elif event.event_type in _TASK_ENDS:
        work_id, status = event.task_id or "", event.event_type.value.removeprefix("task_")
    else:
        return ""
    heartbeat = next((beat for beat in fired if heartbeats.is_of(beat.name, work_id)), None)
    if heartbeat is None:
        return ""
    said = event.message
    with suppress(WatchbillError):  # the event tells enough
        if ended := await client.result(crew, work_id):
            said = (output.first_line(ended.output) or "no output") if ended.success else ended.error or said
    said = output.first_line(said)
    short = said if len(said) <= _MOST else f"{said[: _MOST - 1]}…"
    head = f"{output.clock(event.timestamp)} {crew} heartbeat {heartbeat.name} {status}: {short}"
    return one_line(f"{head} ({following(heartbeat)})")


def following(heartbeat: Heartbeat) -> str:
    """The time of the next slot, in the local time zone."""
    if heartbeat.spec.suspend:
        return "suspended"
    slot = schedule.next_slot(schedule.Schedule.of(heartbeat.spec), output.now())
    return f"fires next at {slot.astimezone():%F %T}"
