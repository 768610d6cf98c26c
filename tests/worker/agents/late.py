"""Agents of a module that takes its time: in the worker whose id is in the file `whom` of the folder LATE, or in its
agents' processes, as LATE_IN says, it is imported only once there is a file `go`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hands import note

if folder := os.environ.get("LATE"):
    whom = os.getppid() if os.environ["LATE_IN"] == "process" else os.getpid()
    if Path(folder, "whom").read_text() == str(whom):
        Path(folder, f"importing.{os.getpid()}").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)


class Thread:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return "done"


class HiddenInThread(Thread):
    """What a decorator hides, too."""

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return self.later()

    async def later(self) -> str:
        return "done"


class Loop(Thread):
    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        return "done"


class Process(Thread):
    runs_in = "process"


class HiddenInProcess(HiddenInThread):
    runs_in = "process"


class LoopInProcess(Loop):
    runs_in = "process"
