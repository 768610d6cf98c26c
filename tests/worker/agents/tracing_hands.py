"""Agents of the tests of traces."""

from __future__ import annotations

from typing import Any

from watchbill.client import Client, SyncClient


class Submits:
    """Submits a task for agent `child` of its crew, and returns its id."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def run(self, context: Any) -> str:
        async with Client(self.url) as client:
            return await client.submit(context.crew, "carried", agent="child")


class SubmitsApart(Submits):
    """The same, in a process of its own."""

    runs_in = "process"

    def run(self, context: Any) -> str:  # type: ignore[override]
        with SyncClient(self.url) as client:
            return client.submit(context.crew, "carried", agent="child")
