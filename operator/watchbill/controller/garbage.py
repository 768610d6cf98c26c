"""Bounds the pauses that Python's garbage collector makes in a process that keeps thousands of resources.

A full collection looks at every object that is kept: some 150 ms for 2,000 crews, in which nothing else goes on. Frozen
objects are not looked at for a while. They still go when nothing refers to them; only a cycle of them stays until then.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from watchbill.clock import SYSTEM, Clock

PAUSE_SECONDS: Final = 0.03
"""A full collection that took longer is the last one of the objects that it left. A freeze after each would in time
collect and freeze ever fewer, and with them cycles of work that is under way."""


WHOLE_SECONDS: Final = 600.0
"""The time between two full collections that look at all there is."""


def collect_whole() -> None:
    """Collects what nothing refers to now, cycles of frozen objects, too."""
    gc.unfreeze()
    gc.collect()


@contextmanager
def bounded_pauses(clock: Clock = SYSTEM) -> Iterator[None]:
    """Within the block, freezes what a full collection leaves that was slow."""
    began = whole_at = clock.monotonic()

    def on_collection(phase: str, info: dict[str, Any]) -> None:
        nonlocal began, whole_at
        if phase == "start":
            began = clock.monotonic()
            if info["generation"] == 2 and began - whole_at >= WHOLE_SECONDS:
                whole_at = began
                gc.unfreeze()
        elif info["generation"] == 2 and clock.monotonic() - began > PAUSE_SECONDS:
            gc.freeze()

    gc.callbacks.append(on_collection)
    try:
        yield
    finally:
        gc.callbacks.remove(on_collection)
        gc.unfreeze()
