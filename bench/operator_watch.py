"""Observation for the operator's benches: a watch whose events carry their arrival, and figures with their spread.

Reads the cluster, and changes nothing in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

from e2e.cluster.kubectl import Kubectl
from e2e.cluster.machine import ClusterError

T = TypeVar("T")
Object = dict[str, Any]

_LINE_BYTES = 1 << 24


@dataclass(frozen=True)
class Seen:
    """One event of a watch."""

    at: float  # time.perf_counter() when it arrived
    kind: str  # ADDED, MODIFIED or DELETED
    object: Object


class Watch:
    """The objects at a path of the API server, from those that are there on. An async context manager.

    The API server's own stream, passed on by kubectl, which knows every kubeconfig's credentials. An event's time of
    arrival is right only while nothing blocks this process's event loop. Before relying on it, see an event: that is
    when it has begun.
    """

    def __init__(self, kubectl: Kubectl, path: str, *, selector: str = "") -> None:
        self._kubectl = kubectl
        self._path = f"{path}?{urlencode({'watch': '1', **({'labelSelector': selector} if selector else {})})}"
        self.objects: dict[str, Object] = {}
        self.events: list[Seen] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            self._kubectl.program,
            f"--kubeconfig={self._kubectl.kubeconfig}",
            "get",
            f"--raw={self._path}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._process.wait()

    async def until(self, condition: Callable[[], T | None], *, within: float, what: str, every: float = 0.01) -> T:
        """The first true value of the condition, which may look at `objects` and `events`."""
        deadline = time.perf_counter() + within
        while not (found := condition()):
            if self._reader.done():
                self._reader.result()
            if time.perf_counter() > deadline:
                raise TimeoutError(f"not within {within:g} s: {what}")
            await asyncio.sleep(every)
        return found

    async def first(self, condition: Callable[[Object], object], *, since: int, within: float, what: str) -> Seen:
        """The first event after `since` others whose object meets the condition."""

        def found() -> Seen | None:
            return next((seen for seen in self.events[since:] if condition(seen.object)), None)

        return await self.until(found, within=within, what=what)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            at = time.perf_counter()
            event = json.loads(line)
            kind, found = event["type"], event["object"]
            if kind not in ("ADDED", "MODIFIED", "DELETED"):
                raise ClusterError(f"the watch of {self._path} broke: {line.decode(errors='replace').strip()}")
            if kind == "DELETED":
                self.objects.pop(found["metadata"]["name"], None)
            else:
                self.objects[found["metadata"]["name"]] = found
            self.events.append(Seen(at, kind, found))
        raise ClusterError(f"the watch of {self._path} ended", "Is the API server still there? Run the bench again.")


def condition(found: Object, kind: str) -> str:
    """The status of a condition; empty where it is not there."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((str(c["status"]) for c in conditions if c["type"] == kind), "")


def store_version(info: Mapping[str, Any]) -> str:
    """Returns the version that INFO tells; Valkey also tells the version of Redis that it is like."""
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def spread(values: list[float]) -> dict[str, float]:
    """By nearest rank: of 50, p99 is the highest."""
    ordered = sorted(values)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"n": len(ordered), "p50": statistics.median(ordered), "p99": p99, "min": ordered[0], "max": ordered[-1]}


def row(what: str, values: list[float], unit: str = "ms") -> str:
    """A line of the table."""
    if not values:
        return f"{what:<44} never seen"
    s = spread(values)
    found = f"p50 {s['p50']:>9,.1f}   p99 {s['p99']:>9,.1f}   ({s['min']:,.1f} … {s['max']:,.1f}) {unit}, n = {s['n']}"
    return f"{what:<44} {found}"
