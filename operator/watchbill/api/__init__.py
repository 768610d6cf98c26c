"""Crew and Heartbeat as people write them: the one source of the CRDs and of what files may contain.

Pure: no I/O, no clock. `watchbill.api.parse` reads YAML text; `check` says what no schema can. The models are loaded at
first use, because a client that only queues work needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watchbill.api.checks import check
    from watchbill.api.crew import Agent, Crew, CrewSpec
    from watchbill.api.heartbeat import CrewRef, Heartbeat, HeartbeatSpec
    from watchbill.api.meta import ObjectMeta
    from watchbill.api.modes import FlowRelation
    from watchbill.api.task_bounds import Tasks
    from watchbill.api.workers import Workers

__all__ = [
    "Agent",
    "Crew",
    "CrewRef",
    "CrewSpec",
    "FlowRelation",
    "Heartbeat",
    "HeartbeatSpec",
    "ObjectMeta",
    "Tasks",
    "Workers",
    "check",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from watchbill.api import checks, crew, heartbeat, meta, modes

    return next(getattr(home, name) for home in (checks, meta, crew, heartbeat, modes) if hasattr(home, name))
