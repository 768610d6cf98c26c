"""Agents of the tests' crews. Their pods have this file from a ConfigMap or an image: it imports nothing of ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from contextlib import suppress
from typing import Any

FIVE_MINUTES = 300.0


class Sleeper:
    """Waits for as many seconds as its prompt says. Returns the pod and the attempt that did it."""

    async def run(self, context: Any) -> dict[str, Any]:
        await asyncio.sleep(float(context.prompt))
        return {"pod": os.environ["HOSTNAME"], "attempt": context.attempt}


class Noted(Sleeper):
    """Does the same, and notes its beginning and its end outside of the queue, in a stream that ledger.py reads."""

    async def run(self, context: Any) -> dict[str, Any]:
        await self._note(context, "begun")
        done = await super().run(context)
        await self._note(context, "ended")
        return done

    async def _note(self, context: Any, what: str) -> None:
        entry = {"task": context.task.task_id, "fence": context.fence, "pod": os.environ["HOSTNAME"], "what": what}
        while True:
            try:
                await context.stream("ledger").add(entry)
            except Exception as error:  # on a busy machine the store may be late; the fence tells what was noted twice
                context.logger.warning("noting it again: %s", error)
                await asyncio.sleep(0.5)
            else:
                return


class Gated:
    """Works until somebody adds to the stream `gate` of its crew."""

    async def run(self, context: Any) -> dict[str, Any]:
        while not await context.stream("gate").read():
            await asyncio.sleep(0.1)
        return {"pod": os.environ["HOSTNAME"], "attempt": context.attempt}


class Opened:
    """Works until somebody sets the key `gate:` and its own name. It asks the store itself, so workers of any release
    run it."""

    def run(self, context: Any) -> dict[str, Any]:
        import redis

        with redis.Redis.from_url(os.environ["WATCHBILL_REDIS_URL"]) as store:
            is_open = False
            while not is_open:
                time.sleep(0.1)
                with suppress(redis.RedisError):  # it is replaced, too
                    is_open = bool(store.exists(f"gate:{context.agent.agent_id}"))
        return {"pod": os.environ["HOSTNAME"], "attempt": context.attempt}


class LongOn:
    """Takes five minutes on the pod that its prompt names, and no time on any other."""

    async def run(self, context: Any) -> dict[str, Any]:
        if context.prompt == os.environ["HOSTNAME"]:
            await asyncio.sleep(FIVE_MINUTES)
        return {"pod": os.environ["HOSTNAME"], "attempt": context.attempt}


class Parent:
    """Leaves processes behind: two whose own parent has ended, and one that it does not wait for."""

    def run(self, context: Any) -> int:
        subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.2 &"], check=True)
        subprocess.Popen(["true"])
        return os.getpid()


class ProcessParent(Parent):
    """Does the same in a process of its own."""

    runs_in = "process"
