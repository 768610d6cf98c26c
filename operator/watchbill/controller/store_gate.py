"""Keeps all crews from waiting for a store that is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock

logger = logging.getLogger("watchbill.operator")

PROBE_SECONDS: Final = 1.0
"""Seconds between two questions to a store that is away: by one reconciliation, for all crews."""


class StoreGate:
    """Knows whether the store answers, from what each request met. `on_back` is called when it answers again."""

    def __init__(self, on_back: Callable[[], None], clock: Clock = SYSTEM) -> None:
        self._on_back = on_back
        self._clock = clock
        self._down_since: float | None = None
        self._probe_at = 0.0
        self.error = ""
        """The reason why the store does not answer, or did not the last time."""
        metrics.STORE_UP.set(1)

    @property
    def down_for(self) -> float | None:
        """For how many seconds the store has been away; None: it answers."""
        return None if self._down_since is None else self._clock.monotonic() - self._down_since

    def may_ask(self) -> bool:
        """True if the store may be asked now. While it is away, this is true once a second."""
        if self._down_since is None:
            return True
        now = self._clock.monotonic()
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        return True

    def failed(self, error: Exception) -> None:
        """The store did not answer."""
        now = self._clock.monotonic()
        if self._down_since is None:
            logger.warning("the store is away: %s", error)
            self._down_since, self.error = now, str(error)
            metrics.STORE_UP.set(0)
        self._probe_at = now + PROBE_SECONDS

    def answered(self) -> None:
        """The store answered, be it with an error."""
        if self._down_since is not None:
            logger.warning("the store is back after %.0f s", self.down_for or 0)
            self._down_since = None
            metrics.STORE_UP.set(1)
            self._on_back()
