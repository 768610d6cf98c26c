"""The way in which a worker delivers. It imports nothing that sends: most workers never do, and start sooner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchbill.plan import deliveries as plan
from watchbill.settings import Settings

if TYPE_CHECKING:
    from watchbill.delivery import Secrets


@dataclass(frozen=True, slots=True)
class Delivering:
    """The way in which a worker delivers."""

    secrets: Secrets | None = None
    """The source of secret values. None: this process's environment, and mounted Secrets."""
    schedule: Sequence[float] = plan.SCHEDULE_SECONDS
    """Pauses between attempts, in seconds."""
    slots: int = plan.SLOTS
    settings: Settings | None = None
    """None: what the environment says."""
    own_streams: frozenset[str] = frozenset()
    """Streams that this process reads or writes by itself, so that no result is delivered there."""
