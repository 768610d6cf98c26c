"""Calls of tools that wait for approval, by themselves. test_worker_tool_approvals has them in crews."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from waiting import until
from watchbill import testing
from watchbill.agents import approving


async def test_a_call_that_is_cancelled_while_it_waits_does_not_hold_up_the_approval_of_others() -> None:
    class Desk:
        asked: Sequence[str] = ()

        async def approved(self, _: str) -> None:
            """Nobody has decided."""

        async def wait_for_approval(self, asked: Mapping[str, str]) -> None:
            self.asked = [json.loads(details)["to"] for details in asked.values()]

    context = testing.context()
    desk = Desk()
    context.to_worker = cast("Any", desk)
    calls, is_over = approving.Calls(context), asyncio.Event()

    async def pay(whom: str) -> None:
        with calls.under_way():
            await calls.approved(approving.Call.of("pay", {"to": whom}, whom, ""))

    async def look_up() -> None:
        with calls.under_way():
            await is_over.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(look_up())
        first, second = group.create_task(pay("Ann")), group.create_task(pay("Bob"))
        await until(lambda: len(calls._asking) == 2)
        first.cancel()
        await asyncio.wait([first])
        is_over.set()
        await until(lambda: desk.asked)
        second.cancel()
    assert desk.asked == ["Bob"]
