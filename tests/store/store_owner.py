"""Opens a store, says so, and keeps it open until a signal comes. After Ctrl-C it writes once more, and closes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import redis.asyncio

from watchbill.embedded import EmbeddedStore


def say(store: EmbeddedStore, **more: Any) -> None:
    pids = [p.pid for p in (store._server, store._watchdog) if p is not None]
    about = {"url": store.url, "owner": store.owner, "pids": pids, "folder": str(store.folder)}
    print(json.dumps(about | more), flush=True)


def fork() -> int:
    pid = os.fork()
    if not pid:
        time.sleep(600)
        os._exit(0)
    return pid


async def main() -> None:
    folder = None if sys.argv[1] == "ephemeral" else Path(sys.argv[1])
    async with await EmbeddedStore.open(folder) as store:
        say(store, child=fork() if "fork" in sys.argv else None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            async with redis.asyncio.Redis.from_url(store.url) as client:
                await client.set("last", "words")
            raise


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, and whoever it starts
    asyncio.run(main())
