"""Spans that an agent makes in a process of its own: its worker exports them, which knows the collector.

Imports OpenTelemetry at the first task whose trace is recorded, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from watchbill import tracing
from watchbill.loggers import Logger

if TYPE_CHECKING:
    from watchbill.tracing.forwarding import Forwarding

logger = Logger("watchbill.tracing")


class Spans:
    """The spans of this process."""

    def __init__(self) -> None:
        self._forwarding: Forwarding | None = None

    def begin(self, told: Mapping[str, Any] | None, tell: Callable[[str], None]) -> None:
        """Has spans be below that of the attempt from now on, and go to the worker by `tell`. `told`: what that says of
        it (`tracing.handed_over`); None, if it is not recorded."""
        if told is None:
            tracing.rest()
            return
        try:
            if self._forwarding is None:
                self._forwarding = _made(content=told["content"])
            self._forwarding.begin(told["carrier"], tell)
        except Exception as error:
            tracing.give_up(error)

    def end(self) -> None:
        """Has spans go nowhere. The task is about to end."""
        if self._forwarding is not None and (dropped := self._forwarding.end()):
            logger.warning(
                "%d spans of this task are lost: too many, too large, or nothing that JSON can tell", dropped
            )


def _made(*, content: bool) -> Forwarding:
    """Turns tracing on in this process."""
    from watchbill.tracing.exporting import Exporting
    from watchbill.tracing.forwarding import Forwarding

    forwarding = Forwarding()
    tracing.active = Exporting("", content=content, processor=forwarding)
    return forwarding
