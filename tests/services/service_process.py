"""A service as a process: `python service_process.py CONFIG NOTES`. Its bot notes each beginning and end in a file."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys

from watchbill.agents.context import Context
from watchbill.services import AgentServiceConfig, BotManager, start_agent_service


class Noting:
    """Ends after as many seconds as its prompt says, or at once."""

    def __init__(self, notes: str) -> None:
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def ask(self, prompt: str, context: Context) -> str:
        self._note("start", context)
        await asyncio.sleep(float(prompt) if prompt[:1].isdigit() else 0)
        self._note("end", context)
        return f"done: {prompt}"

    def _note(self, what: str, context: Context) -> None:
        line = {"what": what, "task": context.task.task_id, "attempt": context.attempt, "pid": os.getpid()}
        os.write(self._notes, f"{json.dumps(line)}\n".encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    config, notes = AgentServiceConfig.model_validate_json(sys.argv[1]), sys.argv[2]
    asyncio.run(start_agent_service(config, BotManager({"Bot": Noting(notes)})))
