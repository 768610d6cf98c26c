"""Writes Kubernetes Events, and few of them: they are for people, and every one costs the API server a write.

The same change that comes again within the window only counts up the series of its Event. Each object has a bucket of
tokens: a change that finds it empty counts up the series of the last Event of its reason, or is dropped. Writes go out
one after the other, ten a second at most. An Event that can't be written is dropped: it is no part of the state.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from watchbill import cluster_names
from watchbill.clock import SYSTEM, Clock, wait_for_event
from watchbill.errors import NotFound, WatchbillError
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan.events import NOTE_MAX_BYTES, Told

logger = logging.getLogger("watchbill.operator")

WINDOW_SECONDS: Final = 600.0
"""A change that comes again after a longer pause is a new Event."""
BURST: Final = 5
"""Events of one object that are written without a pause."""
TOKEN_SECONDS: Final = 60.0
"""Seconds after which an object may have one more."""
SERIES_SECONDS: Final = 30.0
"""Seconds between two writes of one series."""
PER_SECOND: Final = 10
WAITING_MOST: Final = 1000
"""Events that wait to be written; more are dropped."""
CONTROLLER: Final = f"{cluster_names.API_GROUP}/operator"

Kind = Literal["crews", "heartbeats"]
_KINDS: Final[dict[Kind, str]] = {"crews": "Crew", "heartbeats": "Heartbeat"}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class _Series:
    """An Event, and how often what it says has happened."""

    event: dict[str, Any]
    last: float
    last_time: datetime
    count: int = 1
    written: int = 0
    """The count that the API server knows; 0: it knows nothing of the Event yet."""
    written_at: float = -math.inf

    @property
    def stands(self) -> dict[str, Any]:
        return {"count": self.count, "lastObservedTime": _micro(self.last_time)}


class Events:
    """The Events of one process, which `instance` names. `tell` notes them, and `run` writes them."""

    def __init__(self, kubernetes: KubernetesApi, instance: str, clock: Clock = SYSTEM) -> None:
        self._kubernetes = kubernetes
        self._instance = instance[:128]
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._series: dict[tuple[str, str], _Series] = {}
        """(uid of the object, reason) → its last Event."""
        self._new: deque[_Series] = deque()
        self._grown: dict[str, _Series] = {}
        """Name → an Event whose series has grown since it was written."""
        self._asked = asyncio.Event()
        self._cleared_at = clock.monotonic()

    def tell(self, kind: Kind, metadata: Mapping[str, Any], told: Iterable[Told]) -> None:
        """Notes what is told of an object, for `run` to write."""
        for one in told:
            self._note(kind, metadata, one)

    def _note(self, kind: Kind, metadata: Mapping[str, Any], told: Told) -> None:
        now, uid = self._clock.monotonic(), str(metadata["uid"])
        self._clear(now)
        note = told.note.encode()[:NOTE_MAX_BYTES].decode(errors="ignore")
        known = self._series.get((uid, told.reason))
        if known is not None and now - known.last > WINDOW_SECONDS:
            known = None
        if known is not None and (known.event["note"] == note or not self._take(uid, now)):
            known.count, known.last, known.last_time = known.count + 1, now, self._clock.now()
            if known.written:
                self._grown[known.event["metadata"]["name"]] = known
        elif (known is None and not self._take(uid, now)) or len(self._new) >= WAITING_MOST:
            logger.debug("an event is dropped: %s/%s: %s", metadata["namespace"], metadata["name"], note)
            return
        else:
            event = self._event(kind, metadata, told, note)
            made = _Series(event, now, self._clock.now())
            self._series[uid, told.reason] = made
            self._new.append(made)
        self._asked.set()

    def _take(self, uid: str, now: float) -> bool:
        """Takes one of the object's tokens. False: it has none."""
        bucket = self._buckets.setdefault(uid, _Bucket(BURST, now))
        bucket.tokens = min(bucket.tokens + (now - bucket.at) / TOKEN_SECONDS, BURST)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _clear(self, now: float) -> None:
        """Forgets, once in a window, the objects of which nothing was told for as long."""
        if now - self._cleared_at <= WINDOW_SECONDS:
            return
        self._cleared_at = now
        self._series = {key: one for key, one in self._series.items() if now - one.last <= WINDOW_SECONDS}
        self._buckets = {uid: one for uid, one in self._buckets.items() if now - one.at <= WINDOW_SECONDS}

    def _event(self, kind: Kind, metadata: Mapping[str, Any], told: Told, note: str) -> dict[str, Any]:
        name = metadata["name"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
            "eventTime": _micro(self._clock.now()),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": "Warning" if told.warning else "Normal",
            "reason": told.reason,
            "action": told.action,
            "note": note,
            "regarding": {
                "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
                "kind": _KINDS[kind],
                "namespace": metadata["namespace"],
                "name": name,
                "uid": metadata["uid"],
            },
        }

    # ------------------------------------------------------------ writing

    async def run(self) -> None:
        """Writes what is told, until cancelled."""
        while True:
            self._asked.clear()
            now = self._clock.monotonic()
            due = {name: one.written_at + SERIES_SECONDS - now for name, one in self._grown.items()}
            if self._new:
                await self._create(self._new.popleft())
            elif due and min(due.values()) <= 0:
                await self._count_up(self._grown.pop(min(due, key=due.__getitem__)))
            elif due:
                await wait_for_event(self._asked, min(due.values()), self._clock)
                continue
            else:
                await self._asked.wait()
                continue
            await self._clock.sleep(1 / PER_SECOND)

    async def _create(self, one: _Series) -> None:
        one.written, one.written_at = one.count, self._clock.monotonic()
        event = one.event if one.count == 1 else {**one.event, "series": one.stands}
        try:
            await self._kubernetes.create_event(event)
        except WatchbillError as error:
            self._drop(one, error)

    async def _count_up(self, one: _Series) -> None:
        one.written, one.written_at = one.count, self._clock.monotonic()
        metadata = one.event["metadata"]
        try:
            await self._kubernetes.count_event(metadata["namespace"], metadata["name"], one.stands)
        except WatchbillError as error:
            self._drop(one, error)

    def _drop(self, one: _Series, error: WatchbillError) -> None:
        """The API server doesn't have the Event, or not any more: what comes next is a new one."""
        self._series = {key: other for key, other in self._series.items() if other is not one}
        quietly = isinstance(error, NotFound) or "being terminated" in str(error)  # it, or its namespace, has gone
        logger.log(logging.DEBUG if quietly else logging.INFO, "an event can't be written: %s", error)


def _micro(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"
