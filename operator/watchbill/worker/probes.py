"""Notes what the kubelet knows of a worker's readiness, by the answers that it was given.

The operator makes a Deployment smaller only once the kubelets know which workers are ready: a pod that is not ready
goes first. A slow kubelet asks late, and only the worker knows whether it has asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

FAILURES: Final = 3
"""So many probes in a row must fail before a pod that was ready is not: the default of a probe, which ours has."""


class Known(NamedTuple):
    """The readiness of a worker as its kubelet knows it."""

    ready: bool
    since_ms: int
    """The time of the answer that told it so, by the store's clock; 0: none has, and the container counts as not ready
    from its beginning."""


class Probes:
    """The answers to the readiness probes of one worker. `answered` is called in the thread that answers; any other may
    read `known`."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        """`now_ms` returns the time by the store's clock."""
        self.known = Known(ready=False, since_ms=0)
        self._now_ms = now_ms
        self._failures = 0

    def answered(self, is_ready: bool) -> None:
        """The kubelet was given an answer."""
        self._failures = 0 if is_ready else self._failures + 1
        if is_ready != self.known.ready and (is_ready or self._failures >= FAILURES):
            self.known = Known(is_ready, self._now_ms())
