"""The crew of the example at work, for who has nothing of their own to look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from e2e.cluster import recipe
from e2e.cluster.control_plane import free_ports
from e2e.cluster.machine import ClusterError
from e2e.monitor.server import end_of
from watchbill.api.meta import INPUT_MAX_CHARS

FOLDER: Final = recipe.HERE.parent.parent / "examples" / "log-triage"
CREW: Final = "default/log-triage"
INTERVAL_SECONDS: Final = 3
"""The crew gets work so often."""
STOP_SECONDS: Final = 120.0


@contextmanager
def at_work(folder: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    """`watchbill run --watch` of the crew, on a store of its own, with a heartbeat that gives it a part of the
    example's log again and again. Yields the port of its metrics, and a function that raises ClusterError if it has
    ended. What it says is in the folder."""
    (port,) = free_ports(1)
    beat = folder / "heartbeat.yaml"
    beat.write_text(yaml.safe_dump(_heartbeat()))
    words = ["run", str(FOLDER / "crew.yaml"), "--also", str(beat), "--watch", "--ephemeral", f"--health-port={port}"]
    own = {key: value for key, value in os.environ.items() if not key.startswith("WATCHBILL_")}
    log = folder / "watchbill.log"
    with log.open("ab") as output:
        command = [sys.executable, "-m", "watchbill", *words]
        process = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def check() -> None:
        if process.poll() is not None:
            raise ClusterError(f"watchbill {' '.join(words)} ended by itself:\n{end_of(log)}")

    try:
        yield port, check
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _heartbeat() -> dict[str, object]:
    # The end of the log, from the beginning of a line on: as much as a heartbeat may carry.
    _, _, part = (FOLDER / "app.log").read_text()[-INPUT_MAX_CHARS:].partition("\n")
    spec = {
        "crewRef": {"name": CREW.partition("/")[2]},
        "intervalSeconds": INTERVAL_SECONDS,
        "prompt": "What broke, and what should we look at first?",
        "inputs": {"log": part},
    }
    kind = {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Heartbeat", "metadata": {"name": "again"}}
    return {**kind, "spec": spec}
