"""Tasks in each state, and requests to stop or resume them."""

from __future__ import annotations

from support import Crew

from watchbill.store import control

TTL = 60_000


async def ask_to_cancel(crew: Crew, task_id: str, why: str = "") -> bool:
    return await control.cancel(crew.client, crew.keys, crew.uid, task_id, why, TTL)


async def ask_to_interrupt(crew: Crew, task_id: str, why: str = "") -> bool:
    return await control.interrupt(crew.client, crew.keys, crew.uid, task_id, why)


async def ask_to_resume(crew: Crew, task_id: str) -> bool:
    return await control.resume(crew.client, crew.keys, crew.uid, task_id)
