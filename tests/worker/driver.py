"""A worker process as `watchbill worker` is one: crews at work until SIGTERM, hurried by a second one. Options as JSON.

Says on stdout, in one line of JSON, when it works, and where its health is served.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from watchbill import logs
from watchbill.connection import client as connections
from watchbill.local import LocalCrews
from watchbill.settings import Settings
from watchbill.store.queue import Queue
from watchbill.tracing import switch
from watchbill.worker import batch_sender, health, parked


def only_rung(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """From now on, no idle worker of this process looks by itself after 2 s: whatever it begins, it was rung for."""
    really = Queue.claim_at_bell

    async def claim_at_bell(*given: Any, timeout_seconds: float, **rest: Any) -> Any:
        return await really(*given, timeout_seconds=timeout_seconds if timeout_seconds < 2 else 3600, **rest)

    set_attribute(Queue, "claim_at_bell", claim_at_bell)
    set_attribute(connections, "REPLY_TIMEOUT_SECONDS", 7200)


async def main(options: dict[str, Any]) -> None:
    parked.UNPARK_SECONDS = options["unpark_seconds"]  # type: ignore[misc]  # final, but for tests
    batch_sender.HOLD_SECONDS = options["batch_hold_seconds"]  # type: ignore[misc]
    batch_sender.LOOK_SECONDS = options["batch_hold_seconds"] / 3  # type: ignore[misc]
    batch_sender.FIRST_LOOK_SECONDS = batch_sender.TURN_SECONDS = 0.05  # type: ignore[misc]
    health.FIGURES_SECONDS = options["figures_seconds"]  # type: ignore[misc]
    switch.FLUSH_SECONDS = 60.0  # type: ignore[misc]  # the tests' collector may be as slow as the machine
    if options["only_rung"]:
        only_rung()
    crews = LocalCrews(
        options["url"],
        crews=[options["crew"]],
        folders=[Path(folder) for folder in options["folders"]],
        concurrency=options["concurrency"],
        grace_seconds=options["grace_seconds"],
    )
    asked, hurried = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: (hurried if asked.is_set() else asked).set())
    async with crews:
        port = (await crews.serve_health("127.0.0.1", 0)).port if options["health"] else 0
        print(json.dumps({"pid": os.getpid(), "port": port}), flush=True)
        ended = asyncio.create_task(crews.failed())
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        stopping = asyncio.create_task(crews.stop())
        await asyncio.sleep(0)  # so that it has begun
        print("stopping", flush=True)
        hurrying = asyncio.create_task(hurried.wait())
        await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await crews.stop(now=True)
        await stopping
        for task in (ended, waiting, hurrying):
            task.cancel()


if __name__ == "__main__":
    logs.set_up("INFO", logs.Handler(formatter=logs.Formatter("%(levelname)s %(who)s: %(message)s")))
    switch.on(Settings(), "watchbill")
    uvloop.run(main(json.loads(sys.argv[1])))
    switch.off()
