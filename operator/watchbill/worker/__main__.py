"""`python -m watchbill.worker`: the worker of one crew as a process of its own, as it runs in a pod.

Reads WATCHBILL_CREW (namespace/name), WATCHBILL_FOLDERS (of agents' modules, separated by colons) and the settings.
SIGTERM lets it finish what it has; a second one makes it hand that back.
Exit code 0 after SIGTERM, also when the crew is gone; 1 for what went wrong; 2 for a bad setting; 75 when agents that
won't stop hold half of the slots: whatever runs this process (Kubernetes, systemd) starts it anew, with all slots free.
"""

from __future__ import annotations

import signal

from watchbill import init

if __name__ == "__main__":
    init.begin({signal.SIGTERM: 0, signal.SIGINT: 0})  # it holds nothing yet
    init.begin_imports()
    init.import_redis()

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop
from pydantic import Field

from watchbill import background, logs, metrics
from watchbill.agents.loading import AgentLoader
from watchbill.connection import Store
from watchbill.errors import CrewGone, InvalidInput, WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.redaction import redact
from watchbill.settings import Settings, read
from watchbill.store import eviction
from watchbill.terminal import one_line
from watchbill.tracing import switch
from watchbill.worker.lease_keeper import STUCK_SECONDS
from watchbill.worker.worker import Worker

logger = Logger("watchbill.worker")

RECYCLED: Final = 75
"""The exit code that asks to be started again: EX_TEMPFAIL of sysexits.h."""
_ORDERLY_SECONDS: Final = 5.0
"""Seconds that the process may take to end after its worker. Threads that agents left behind could hold it up for
ever."""


class WorkerSettings(Settings):
    """Settings of a worker process."""

    crew: str = Field(pattern="^[^/]+/[^/]+$", examples=["namespace/name"], description="The crew to work for.")
    folders: str = Field(default="", description="Folders of agents' modules, separated by colons.")
    revision: str = Field(default="", description="Template revision of the worker's pod, which the operator sets.")
    redis_url: str = Field(examples=["the URL of the store"], description="The store.")


def main() -> int:
    try:
        settings = read(WorkerSettings)
    except InvalidInput as error:
        sys.stderr.write("".join(f"error: {one_line(redact(str(problem)))}\n" for problem in error.problems))
        return 2
    logs.set_up(settings.log_level, logs.Handler(formatter=logs.formatter(settings.log_format)))
    namespace, _, crew = settings.crew.partition("/")
    switch.on(settings, crew, namespace)
    init.imported()
    try:
        return uvloop.run(_end(settings))
    finally:
        switch.off()


async def _end(settings: WorkerSettings) -> int:
    """Works, and returns the exit code. From then on the process has a few seconds to end in good order."""
    code = 0
    try:
        if await _work(settings):
            code = RECYCLED
    except CrewGone as error:
        logger.warning("%s", error)
    except WatchbillError as error:
        logger.error("%s", error)
        code = 1
    init.force(_ORDERLY_SECONDS, lambda: os._exit(code))
    return code


async def _work(settings: WorkerSettings) -> bool:
    """Works. Returns whether the process is to be started anew."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(settings.redis_url))
        stack.callback(background.start("eviction", lambda: eviction.warn(store.client)).cancel)
        keys = CrewKeys(*settings.crew.split("/"))
        folders = [Path(folder) for folder in settings.folders.split(":") if folder]
        loader = AgentLoader(folders, modules=settings.allowed_modules)
        worker = Worker(
            store, keys, loader, grace_seconds=settings.grace_seconds, recycle=True, revision=settings.revision
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: worker.stop(now=worker.stopping))
        if settings.health_port is not None:
            from watchbill.worker.health import HealthServer, observe  # with aiohttp, which takes long to import

            metrics.leave_out_created()
            health = HealthServer(
                lambda: observe(store.client, [keys]),
                lambda: not worker.drained,
                stuck_seconds=STUCK_SECONDS,
                on_probe=worker.note_probes(),
            )
            stack.push_async_callback(health.close)
            await health.start(settings.health_host, settings.health_port)
        await worker.run()
    return worker.recycled


if __name__ == "__main__":
    init.leave(main())
