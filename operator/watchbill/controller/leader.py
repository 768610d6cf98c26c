"""Elects one leader among the replicas of an operator, by a Lease of the API server.

A leader counts its time from the moment before it sent the renewal that succeeded, and starts no write after two thirds
of the lease. A write ends within the lease, or is given up. A candidate takes the Lease of another when the record has
not changed for the whole lease, counted from when the candidate saw the change. So no two clocks are compared, and a
process that was stopped and goes on finds that it no longer leads before it begins a write. The write that it was
about to send when it was stopped may still arrive: docs/design/operator.md says why that does no harm.

Not kubernetes.aio.leaderelection, because: it crashes when it creates the Lease, leads on while the API server is away,
and never releases.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock, Timer
from watchbill.errors import NotLeader, WatchbillError
from watchbill.kubernetes_api import WRITE_TIMEOUT_SECONDS, KubernetesApi

logger = logging.getLogger("watchbill.operator")

LEASE_SECONDS: Final = 15.0
_LEADS: Final = 2 / 3
"""The part of the lease for which a leader acts after a renewal."""
_RETRY: Final = 2 / 15
"""The part of the lease between two renewals, and for which a request for the Lease is waited for."""


class Elector:
    """Takes and renews the Lease. `on_change` is called on the loop whenever `is_leader` has changed."""

    def __init__(
        self,
        kubernetes: KubernetesApi,
        lease: str,
        identity: str,
        on_change: Callable[[], object],
        *,
        seconds: float = LEASE_SECONDS,
        clock: Clock = SYSTEM,
    ) -> None:
        """`lease`: `namespace/name`. `identity`: of this process and no other. `seconds`: duration of the lease."""
        self._kubernetes = kubernetes
        self._namespace, _, self._name = lease.partition("/")
        self._identity = identity
        self._on_change = on_change
        self._seconds = seconds
        self._clock = clock
        self._renewed_at = -math.inf
        """The time before the last renewal that succeeded; minus infinity: this process does not hold the Lease."""
        self._held: Mapping[str, Any] | None = None
        """The Lease as this process wrote it last; None: it must be read first."""
        self._spec: Any = None
        """The spec of the Lease when it was read last, and the time at which that was first seen."""
        self._changed_at = -math.inf
        self._was_leader = False
        self._timer: Timer | None = None
        metrics.LEADER.set(0)

    @property
    def is_leader(self) -> bool:
        """True while this process may act. It may become false at any time."""
        return self._clock.monotonic() < self._renewed_at + self._seconds * _LEADS

    def check(self) -> None:
        """Raises NotLeader unless this process may act."""
        if not self.is_leader:
            raise NotLeader(f"{self._identity} does not lead")

    def seconds_to_write(self) -> float:
        """Returns how long a write that starts now may take. Raises NotLeader."""
        self.check()
        return min(WRITE_TIMEOUT_SECONDS, self._renewed_at + self._seconds - self._clock.monotonic())

    async def run(self) -> None:
        """Tries to lead, until cancelled."""
        while True:
            try:
                await self._try()
            except WatchbillError as error:
                self._held = None  # a write without an answer may have been done
                level = logging.WARNING if self.is_leader else logging.INFO
                logger.log(level, "the Lease can't be taken or renewed: %s", error)
            await self._clock.sleep(self._seconds * _RETRY * random.uniform(0.9, 1.1))

    async def release(self) -> None:
        """Gives the Lease to whoever asks next. Nothing may be written any more when this is called."""
        if self._renewed_at == -math.inf:
            return
        self._end("is released")
        try:
            part = _LEADS / 2  # of both requests: there is no second try, and nobody waits but the others
            seen = await self._read(part)
            if seen is not None and self._spec.get("holderIdentity") == self._identity:
                await self._write(seen, "", 1, part)
        except WatchbillError as error:
            logger.warning("the Lease can't be released, and lasts for %.0f s: %s", self._seconds, error)

    # ------------------------------------------------------------ within

    async def _try(self) -> None:
        seen = self._held if self.is_leader else None
        if seen is None:
            seen = await self._read()
            if not self._is_free():
                self._end("is another's")
                return
        began = self._clock.monotonic()
        self._held = await self._write(seen, self._identity, math.ceil(self._seconds))
        self._renewed_at = began
        if self._timer is not None:
            self._timer.cancel()
        left = began + self._seconds * _LEADS - self._clock.monotonic()
        self._timer = self._clock.call_later(left, self._end, "could not be renewed in time")
        self._tell("is ours")

    async def _read(self, part: float = _RETRY) -> Mapping[str, Any] | None:
        seen = await self._kubernetes.lease(self._namespace, self._name, timeout=self._seconds * part)
        spec = (seen or {}).get("spec") or {}
        if seen is None and self._spec:  # somebody deleted it, and its holder may not know yet
            spec = {**self._spec, "deleted": True}
        if self._spec is None or spec != self._spec:
            self._spec, self._changed_at = spec, self._clock.monotonic()
        return seen

    def _is_free(self) -> bool:
        if self._spec.get("holderIdentity") in (None, "", self._identity):
            return True
        lasts = float(self._spec.get("leaseDurationSeconds") or self._seconds)
        return self._clock.monotonic() - self._changed_at >= lasts

    async def _write(
        self, seen: Mapping[str, Any] | None, holder: str, seconds: int, part: float = _RETRY
    ) -> Mapping[str, Any]:
        before = (seen or {}).get("spec") or {}
        now = self._clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {**before, "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now}
        if before.get("holderIdentity") != holder:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(before.get("leaseTransitions") or 0) + bool(holder)
        metadata = dict(seen["metadata"]) if seen else {"namespace": self._namespace, "name": self._name}
        return await self._kubernetes.write_lease(metadata, spec, timeout=self._seconds * part)

    def _end(self, why: str) -> None:
        self._renewed_at, self._held = -math.inf, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell(why)

    def _tell(self, why: str) -> None:
        is_leader = self.is_leader
        if is_leader == self._was_leader:
            return
        self._was_leader = is_leader
        metrics.LEADER.set(is_leader)
        words = "this process leads" if is_leader else "this process no longer leads"
        logger.info("%s: the Lease %s/%s %s", words, self._namespace, self._name, why)
        self._on_change()
