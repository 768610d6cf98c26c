"""Runs crews and their store in this process until a signal, then drains the crews. Used by `run` and `worker`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from watchbill.cli import output, stores
from watchbill.cli.process import Interrupted, Signals
from watchbill.connection.url import Target
from watchbill.errors import InvalidInput, Problem
from watchbill.local import LocalCrews

QUIET_SECONDS: Final = 0.3
"""Seconds that a stop may take without a message."""


@asynccontextmanager
async def store(place: stores.Place, at_work: list[LocalCrews], signals: Signals) -> AsyncIterator[Target]:
    """Opens the store. If the process that owned it ends, those `at_work` take over the tasks of its workers."""

    async def take_over() -> None:
        for local in at_work:
            await local.declare_dead()

    opened = stores.opened(place, take_over)
    target = await signals.guard(opened.__aenter__())
    try:
        yield target
    finally:
        await opened.__aexit__(None, None, None)


@asynccontextmanager
async def started(local: LocalCrews, at_work: list[LocalCrews], signals: Signals) -> AsyncIterator[None]:
    """Starts the crews, adds them to `at_work`, and drains them at the end."""
    await signals.guard(local.__aenter__())
    at_work.append(local)
    try:
        yield
    finally:
        await drain(local, signals)


async def serve(local: LocalCrews, signals: Signals) -> int:
    """Waits for the first signal. Raises the error that ended a worker."""
    try:
        await signals.guard(local.failed())
    except Interrupted:
        output.say("stopping")
    return 0


async def health(local: LocalCrews, host: str, port: int | None) -> str:
    """Serves health if a port is given, and returns a message. Raises InvalidInput when the port is taken."""
    if port is None:
        return ""
    from watchbill import metrics

    metrics.leave_out_created()
    try:
        server = await local.serve_health(host, port)
    except OSError as error:
        reason = f"{host}:{port} can't be listened on: {error.strerror or error}"
        raise InvalidInput(Problem(reason, "Choose another, or 0 for any free one.", path="--health-port")) from None
    return f"health at http://{host}:{server.port}"


async def drain(local: LocalCrews, signals: Signals, *, now: bool = False) -> None:
    """Drains and stops the crews. After another signal they hand back their tasks at once."""
    stopping = asyncio.ensure_future(local.stop(now=now))
    hurry = asyncio.ensure_future(signals.next())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED, timeout=QUIET_SECONDS)
    if not stopping.done() and not hurry.done():
        output.say("running tasks may still finish; Ctrl-C (or another SIGTERM) hands them back at once")
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await local.stop(now=True)
    hurry.cancel()
    await stopping
