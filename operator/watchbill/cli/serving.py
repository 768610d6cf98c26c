"""Runs a service and its store in this process until a signal, then drains it. Used by `run` and `worker`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from watchbill.cli import output, stores
from watchbill.cli.process import Interrupted, Signals
from watchbill.connection.url import Target
from watchbill.errors import InvalidInput, Problem
from watchbill.service import AgentService

QUIET_SECONDS: Final = 0.3
"""Seconds that a stop may take without a message."""


@asynccontextmanager
async def store(place: stores.Place, services: list[AgentService], signals: Signals) -> AsyncIterator[Target]:
    """Opens the store. If the process that owned it ends, `services` take over the tasks of its workers."""

    async def take_over() -> None:
        for service in services:
            await service.declare_dead()

    opened = stores.opened(place, take_over)
    target = await signals.guard(opened.__aenter__())
    try:
        yield target
    finally:
        await opened.__aexit__(None, None, None)


@asynccontextmanager
async def started(service: AgentService, services: list[AgentService], signals: Signals) -> AsyncIterator[None]:
    """Starts the service, adds it to `services`, and drains it at the end."""
    await signals.guard(service.__aenter__())
    services.append(service)
    try:
        yield
    finally:
        await drain(service, signals)


async def serve(service: AgentService, signals: Signals) -> int:
    """Waits for the first signal. Raises the error that ended a worker."""
    try:
        await signals.guard(service.failed())
    except Interrupted:
        output.say("stopping")
    return 0


async def health(service: AgentService, host: str, port: int | None) -> str:
    """Serves health if a port is given, and returns a message. Raises InvalidInput when the port is taken."""
    if port is None:
        return ""
    try:
        server = await service.serve_health(host, port)
    except OSError as error:
        reason = f"{host}:{port} can't be listened on: {error.strerror or error}"
        raise InvalidInput(Problem(reason, "Choose another, or 0 for any free one.", path="--health-port")) from None
    return f"health at http://{host}:{server.port}"


async def drain(service: AgentService, signals: Signals, *, now: bool = False) -> None:
    """Drains and stops the service. After another signal it hands back its tasks at once."""
    stopping = asyncio.ensure_future(service.stop(now=now))
    hurry = asyncio.ensure_future(signals.next())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED, timeout=QUIET_SECONDS)
    if not stopping.done() and not hurry.done():
        output.say("running tasks may still finish; Ctrl-C (or another SIGTERM) hands them back at once")
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await service.stop(now=True)
    hurry.cancel()
    await stopping
