"""Keeps what the operator remembers of crews between reconciliations.

All of it may be lost: a restart makes it anew from the resources and the store. Times are by the clock's `monotonic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from watchbill.controller.cache import Key
from watchbill.plan.crew import Watch
from watchbill.plan.heartbeat import Verdict
from watchbill.plan.replicas import Past
from watchbill.store.sweep import Whole

READING_SECONDS: Final = 1.0
"""The greatest age of a reading that a reconciliation uses."""

Resource = tuple[Literal["crews", "heartbeats"], str, str]
"""(plural, namespace, name) of a resource whose status the operator writes."""


@dataclass(slots=True)
class CrewMemory:
    """The memory of one crew, and of its heartbeats."""

    idle_since: float | None = None
    """Since when the crew has had no work; None: it has work, or that is not known."""
    has_service_account: bool = False
    refusal: tuple[int, str, str] | None = None
    """(generation, template revision, message) of the last refusal; after a restart the status says it."""
    denied: str | None = None
    """The API server's message when it last forbade something. It is tried again: a right or a quota may come."""
    denials: int = 0
    """Number of times in a row that it was forbidden."""
    denied_until: float = 0.0
    conflict: int | None = None
    """The generation whose status says that the crew is another's. It is said once for each generation, or two
    operators would overwrite each other's statuses for ever."""
    synced: str = ""
    """Uid, generation and heartbeats that were stored last; empty: they must be stored again."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """Heartbeat → whether it fires."""
    knows_beats: bool = False
    """The store has no other heartbeats of the crew than these. Not known: there may be some of before a restart."""
    run_now: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Heartbeat → the value of the annotation that had it fired last, and what became of it."""
    missed: dict[str, int] = field(default_factory=dict)
    """Heartbeat → the number of its missed slots at the last reading."""
    parked: tuple[int, float, Sequence[str]] = (0, 0.0, ())
    """The number of parked tasks, the time of that reading, and the agents that they wait for."""
    help_at: float | None = None
    """The next time to see whether help is to be asked for; None: ready work makes progress, as far as is known."""
    dead: int | None = None
    """Number of dead letters at the last reading; None: not read yet."""
    past: Past = Past()  # noqa: RUF009 - it is frozen
    """The earlier decisions on the number of workers."""
    empty_since: dict[str, float] = field(default_factory=dict)
    """Worker → since when it has been seen drained and empty."""
    drained_at: dict[str, float] = field(default_factory=dict)
    """Worker → when this process had it drained; without those that have ended all that they ran."""
    silent_since: dict[str, float] = field(default_factory=dict)
    """Incarnation of a suspended crew → since when its lease has been seen to be over."""
    explained: tuple[Any, float] | None = None
    """The key of the explanation of the number of workers that was kept last, and when."""
    watch: Watch = ""
    """The way in which the autoscaler looks at the crew; empty during a reconciliation, and after one that failed."""
    reading: tuple[float, Whole] | None = None
    """The time of the autoscaler's last reading of the crew, and the reading. It serves one reconciliation."""
    swept: Any = None
    """The substance of the reading that the last reconciliation used; None: it asked the store itself."""
    changes: int = 0
    """Counts what makes a reading outdated that was asked for before."""
    written: dict[Resource, float] = field(default_factory=dict)
    """The time at which the status of each resource was last written."""
    refused: dict[Resource, tuple[int, str, float]] = field(default_factory=dict)
    """Resource whose status the API server refused → generation, message, and the time of the next try."""

    def outdate(self) -> None:
        """Something has changed in the store: what was read of the crew before, or is being read, counts no more."""
        self.reading = None
        self.changes += 1

    def take(self, now: float) -> Whole | None:
        """Returns the reading, if it is a new one. It is taken once."""
        found, self.reading = self.reading, None
        whole = found[1] if found is not None and now - found[0] < READING_SECONDS else None
        self.swept = whole.substance if whole is not None else None
        return whole


class Memory:
    """The memories of all crews."""

    def __init__(self) -> None:
        self._crews: dict[Key, CrewMemory] = {}

    def of(self, key: Key) -> CrewMemory:
        """Returns the crew's memory, which the caller may change, and makes it: a reconciliation removes it again."""
        return self._crews.setdefault(key, CrewMemory())

    def known(self, key: Key) -> CrewMemory | None:
        """Returns the crew's memory; None: it was not reconciled yet, or is gone."""
        return self._crews.get(key)

    def pop(self, key: Key) -> CrewMemory:
        """Removes and returns the memory of a crew that is gone."""
        return self._crews.pop(key, CrewMemory())

    def on_work(self, key: Key) -> None:
        """Work has come to the crew, and may be done before the crew is reconciled."""
        if memory := self._crews.get(key):
            memory.idle_since = None
            memory.outdate()

    def invalidate(self) -> None:
        """Has the next reconciliation of each crew make sure of everything that was stored or seen before."""
        for memory in self._crews.values():
            memory.synced = ""
            memory.knows_beats = False
            memory.has_service_account = False
