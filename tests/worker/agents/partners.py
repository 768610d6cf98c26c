"""Agents that tell what they do with agent `b`, on the event loop, in a thread, and in a process."""

from __future__ import annotations

import asyncio
from typing import Any


async def on_loop(context: Any) -> str:
    """Tells all that there is to tell; returns what is said of an agent that isn't there."""
    await context.delegate("b", "find them", scope="the sources", spawn_mode="forked_context")
    await context.hand_off_for_review("b", "read it", scope="the draft")
    await context.approve("b", "well done")
    await context.escalate("which is first?", to="b")
    await context.escalate("anybody?")
    try:
        await context.delegate("nobody")
    except ValueError as error:
        return str(error)
    return "delegated to nobody"


def in_thread(context: Any) -> str:
    context.delegate_sync("b", "find them", scope="the sources", spawn_mode="forked_context")
    context.hand_off_for_review_sync("b", "read it", scope="the draft")
    context.approve_sync("b", "well done")
    context.escalate_sync("which is first?", to="b")
    context.escalate_sync("anybody?")
    try:
        context.delegate_sync("nobody")
    except ValueError as error:
        return str(error)
    return "delegated to nobody"


class InProcess:
    runs_in = "process"

    def run(self, context: Any) -> str:
        return in_thread(context)


async def many(context: Any) -> str:
    await asyncio.gather(*(context.emit(str(number)) for number in range(50)))
    return "said"
