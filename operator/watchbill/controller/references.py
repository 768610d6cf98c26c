"""Keeps the states of the Secrets and ConfigMaps that crews refer to. Their metadata are read, never what is in them.

Each object is read once for all crews of its namespace: when a crew begins to refer to it, and again after a pause. The
pauses are jittered, so that the objects of thousands of crews are not read in the same second. When a state changes,
the crews that refer to the object are woken.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from watchbill.clock import SYSTEM, Clock
from watchbill.controller.cache import Key
from watchbill.errors import KubernetesForbids, WatchbillError
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import references

logger = logging.getLogger("watchbill.operator")

TICK_SECONDS: Final = 1.0
AT_ONCE: Final = 8
FRESH_SECONDS: Final = 5.0
"""Age up to which a state is not read again for a crew that has changed."""
MISSING_SECONDS: Final = 2.5
"""The pause before an object is looked for again that is not there. It grows with the time for which it isn't."""
_KINDS: Final = {"Secret": "secrets", "ConfigMap": "configmaps"}


@dataclass(slots=True)
class _Entry:
    users: set[Key] = field(default_factory=set)
    """The crews that refer to the object."""
    state: str | None = None
    """As in plan/references.py; None: it may not be read, or was not yet."""
    read_at: float = -math.inf
    due_at: float = -math.inf
    missing_since: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class References:
    """`wake(crew)` has the crew reconciled. `seconds`: the longest time after which an object is read again."""

    def __init__(
        self, kubernetes: KubernetesApi, wake: Callable[[Key], object], seconds: float, clock: Clock = SYSTEM
    ) -> None:
        self._kubernetes = kubernetes
        self._wake = wake
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[tuple[str, str], _Entry] = {}
        """(namespace, `Secret/keys`) → what is known of the object."""
        self._of: dict[Key, frozenset[str]] = {}
        self._forbidden: set[str] = set()
        """Kinds of which the log has said that they may not be read."""

    async def states(self, crew: Key, needed: Collection[str], *, changed: bool) -> dict[str, str]:
        """Returns the states of these objects of the crew's namespace, without those that may not be read.

        `changed`: the crew refers to them newly, maybe. Raises KubernetesUnavailable.
        """
        self._refer(crew, frozenset(needed))
        now = self._clock.monotonic()
        entries = {key: self._entries[crew[0], key] for key in needed}
        oldest = now - FRESH_SECONDS if changed else -math.inf
        due = [key for key, entry in entries.items() if entry.read_at <= oldest]
        await asyncio.gather(*(self._read(crew[0], key, entries[key], oldest) for key in due))
        return {key: entry.state for key, entry in entries.items() if entry.state is not None}

    def forget(self, crew: Key) -> None:
        """The crew is gone."""
        self._refer(crew, frozenset())
        self._of.pop(crew, None)

    async def run(self) -> None:
        """Reads again what is due, until cancelled."""
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            due = [(where, entry) for where, entry in self._entries.items() if entry.due_at <= now]
            for first in range(0, len(due), AT_ONCE):
                part = due[first : first + AT_ONCE]
                reads = (self._read(namespace, key, entry, now) for (namespace, key), entry in part)
                for error in await asyncio.gather(*reads, return_exceptions=True):
                    if isinstance(error, WatchbillError):
                        logger.debug("a reference can't be read: %s", error)
                    elif error is not None:
                        raise error

    def _refer(self, crew: Key, needed: frozenset[str]) -> None:
        before = self._of.get(crew, frozenset())
        self._of[crew] = needed
        for key in needed - before:
            self._entries.setdefault((crew[0], key), _Entry()).users.add(crew)
        for key in before - needed:
            entry = self._entries[crew[0], key]
            entry.users.discard(crew)
            if not entry.users:
                del self._entries[crew[0], key]

    async def _read(self, namespace: str, key: str, entry: _Entry, oldest: float) -> None:
        """Reads the object, unless another has read it after `oldest`."""
        async with entry.lock:
            if entry.read_at > oldest:
                return
            asked_at = self._clock.monotonic()
            kind, _, name = key.partition("/")
            plural = cast(Literal["secrets", "configmaps"], _KINDS[kind])
            state: str | None
            try:
                found = await self._kubernetes.metadata(plural, namespace, name)
                state = references.MISSING if found is None else references.state(found)
            except KubernetesForbids as error:
                state = None
                if kind not in self._forbidden:
                    self._forbidden.add(kind)
                    logger.warning("workers are not replaced when a %s changes: %s", kind, error)
            before, is_first = entry.state, entry.read_at == -math.inf
            entry.state, entry.read_at = state, asked_at
            entry.due_at = asked_at + self._pause(entry, asked_at)
        if state != before and not is_first:
            for crew in sorted(entry.users):
                self._wake(crew)

    def _pause(self, entry: _Entry, now: float) -> float:
        if entry.state != references.MISSING:
            entry.missing_since = None
            return self._seconds * random.uniform(0.75, 1.0)
        entry.missing_since = now if entry.missing_since is None else entry.missing_since
        return min(max((now - entry.missing_since) / 4, MISSING_SECONDS), self._seconds)
